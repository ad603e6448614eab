"""The configuration as dataclasses behind conf/: composed by Hydra, typed here, checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import msgspec
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_oreal.evaluation.config import EvalConfig, EvalSetsConfig
from megatron_oreal.model.split import Split
from megatron_oreal.monitor.config import MonitorConfig, ProfileConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.verify.config import VerifyConfig

DTYPES = ("float32", "bfloat16")
MODES = ("train", "rollout_only", "train_only", "replay")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class ModelConfig:
    """Where policy, token RM and reference start from."""

    path: str  # a Hugging Face folder
    dtype: str = "bfloat16"

    def __post_init__(self):
        _require(self.dtype in DTYPES, f"model.dtype={self.dtype!r} is not one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class ParallelConfig:
    """How the models are spread over ranks; all three share it."""

    tp: int = 1  # tensor parallel
    pp: int = 1  # pipeline stages
    vpp: int | None = None  # interleaved pipeline: model chunks a stage
    cp: int = 1  # context parallel
    dp: int | None = None  # data parallel; None: whatever the world size leaves
    sequence_parallel: bool = False
    timeout_s: float = 600.0  # deadline of a collective of the data plane
    control_timeout_s: float = 7200.0  # how long the ranks wait for rank 0's next batch: a whole rollout
    lost_after_s: float = 20.0  # a rank that has given no sign of life for so long ends the job

    def __post_init__(self):
        for name in ("tp", "pp", "cp", "dp"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"parallel.{name}={value} must be at least 1")
        _require(self.vpp is None or (self.vpp > 1 and self.pp > 1), f"parallel.vpp={self.vpp} must be above 1 and needs parallel.pp > 1")
        _require(self.tp > 1 or not self.sequence_parallel, "parallel.sequence_parallel=true needs parallel.tp > 1")
        for name in ("timeout_s", "control_timeout_s", "lost_after_s"):
            _require(getattr(self, name) > 0, f"parallel.{name} must be above 0")

    def data_parallel(self, world_size: int) -> int:
        """DP size of a world; raises ValueError where the world does not divide, or is not the one asked for."""
        model_parallel = self.tp * self.pp * self.cp
        if world_size % model_parallel or (self.dp is not None and self.dp * model_parallel != world_size):
            dp = "DP" if self.dp is None else f"DP {self.dp}"
            raise ValueError(f"parallel: world size {world_size} is not TP {self.tp} x PP {self.pp} x CP {self.cp} x {dp}")
        return world_size // model_parallel


@dataclass(frozen=True)
class ComputeConfig:
    """Recomputation, number formats and optional kernels; what is there is found at start (model.compute)."""

    recompute: str = "none"  # of activations in the backward pass: none | selective (attention) | full (whole layers)
    fp8: str = "none"  # none | hybrid | e4m3: matrix products of Transformer Engine's layers
    adam: str = "auto"  # auto | te | apex: whose FusedAdam
    attention: str = "auto"  # auto | flash | fused | unfused: back end of Transformer Engine's attention
    fused_weight_gradients: bool = False  # Apex's kernel that adds weight gradients up in float32

    def __post_init__(self):
        for name, allowed in (
            ("recompute", ("none", "selective", "full")),
            ("fp8", ("none", "hybrid", "e4m3")),
            ("adam", ("auto", "te", "apex")),
            ("attention", ("auto", "flash", "fused", "unfused")),
        ):
            value = getattr(self, name)
            _require(value in allowed, f"compute.{name}={value!r} is not one of {', '.join(allowed)}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay (spec, Schedule)."""

    lr: float
    min_lr: float
    warmup_steps: int = 10
    weight_decay: float = 0.01
    weight_decay_on_norms: bool = True  # and on biases, as in the released trainer; False: on matrices alone
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_grad: float = 1.0  # largest gradient norm

    def __post_init__(self):
        _require(0 <= self.min_lr <= self.lr, f"optimizer: min_lr={self.min_lr} must lie between 0 and lr={self.lr}")
        _require(self.warmup_steps >= 0, f"optimizer: warmup_steps={self.warmup_steps} must not be negative")
        _require(self.clip_grad > 0, f"optimizer: clip_grad={self.clip_grad} must be above 0")


@dataclass(frozen=True)
class PolicyConfig:
    """How the policy is updated."""

    optimizer: OptimizerConfig
    freeze_steps: int = 10  # first steps that update the token RM alone (spec step 6)
    warmup_counts_frozen: bool = True  # the released trainer's schedule also runs while the policy is frozen


@dataclass(frozen=True)
class TokenRMConfig:
    """How the token reward model is updated; whether there is one is objective.token_rm."""

    optimizer: OptimizerConfig


@dataclass(frozen=True)
class DataConfig:
    """Training questions."""

    train: str  # JSONL with question, gold_answer and optionally pass_rate
    questions_per_step: int = 64
    system_prompt: str = ""
    # Difficulty balance (spec, Data): [upper end of the pass-rate band, repeats]; beyond the last band dropped. Empty: every
    # question once.
    balance: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self):
        _require(self.questions_per_step >= 1, f"data.questions_per_step={self.questions_per_step} must be at least 1")
        ends = [band[0] for band in self.balance]
        _require(ends == sorted(ends), f"data.balance: band ends {ends} must rise")


@dataclass(frozen=True)
class LearnConfig:
    """The training step's own settings."""

    tokens_per_micro_batch: int = 16384

    def __post_init__(self):
        _require(self.tokens_per_micro_batch >= 1, f"learn.tokens_per_micro_batch={self.tokens_per_micro_batch} must be at least 1")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run so that it can go on; see TrainConfig.resume."""

    interval: int = 10  # steps between checkpoints
    keep_last: int = 2  # the newest so many
    keep_best: int = 1  # and so many with the best score on the validation set (eval.validation)
    timeout_s: float = 1800.0  # for writing one, while training goes on
    hf_interval: int = 0  # steps between exports of the policy as a Hugging Face folder; 0: only at the end
    hf_keep_last: int = 2  # the newest so many of those

    def __post_init__(self):
        least_values = (("interval", 1), ("keep_last", 1), ("keep_best", 0), ("timeout_s", 1), ("hf_interval", 0), ("hf_keep_last", 1))
        for name, least in least_values:
            _require(getattr(self, name) >= least, f"checkpoint.{name}={getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class TrainConfig:
    """Everything an OREAL run needs: conf/train.yaml."""

    run_dir: str
    seed: int
    steps: int
    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    data: DataConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    objective: Objective
    policy: PolicyConfig
    token_rm: TokenRMConfig
    learn: LearnConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    resume: str | None = None  # "auto": the newest checkpoint of run_dir, if any; or a checkpoint's folder
    record: bool = False  # write every step's trajectories to <run_dir>/trajectories, and the token weights of those trained on
    mode: str = "train"  # train | rollout_only | train_only | replay: see debug.py
    recorded: str | None = None  # folder of trajectories, for train_only and replay
    replay_step: int | None = None

    def __post_init__(self):
        _require(self.mode in MODES, f"mode={self.mode!r} is not one of {', '.join(MODES)}")
        reads = self.mode in ("train_only", "replay")
        _require((self.recorded is not None) == reads, f"recorded={self.recorded}: a folder is given if and only if mode reads one")
        _require((self.replay_step is not None) == (self.mode == "replay"), f"replay_step={self.replay_step} goes with mode=replay")
        frozen = self.policy.freeze_steps if self.objective.token_rm else 0
        _require(self.steps > frozen, f"steps={self.steps} must be above policy.freeze_steps={frozen}, or the policy never learns")
        _require(
            self.objective.token_rm or self.policy.freeze_steps == 0,
            "policy.freeze_steps must be 0 where objective.token_rm is false: nothing would be trained in those steps",
        )
        for name, optimizer in (("policy", self.policy.optimizer), ("token_rm", self.token_rm.optimizer)):
            _require(optimizer.warmup_steps < self.steps, f"{name}.optimizer.warmup_steps={optimizer.warmup_steps} >= steps={self.steps}")
        _require(
            self.objective.importance_cap is None or self.rollout.temperature == 1,
            f"objective.importance_cap compares with the engine's log-probabilities, which are of rollout.temperature="
            f"{self.rollout.temperature}; it needs 1",
        )
        longest, budget = self.rollout.max_total_tokens, self.learn.tokens_per_micro_batch
        padded = Split(self.parallel.cp).padded(longest)
        padding = f", padded to {padded} for parallel.cp={self.parallel.cp}" if padded > longest else ""
        _require(padded <= budget, f"learn.tokens_per_micro_batch={budget} is below rollout.max_total_tokens={longest}{padding}")


@dataclass(frozen=True)
class SftData:
    """Supervised examples."""

    train: str  # JSONL with question, response
    system_prompt: str = ""


@dataclass(frozen=True)
class SftConfig:
    """Everything a supervised start needs: conf/sft.yaml."""

    run_dir: str
    seed: int
    steps: int
    examples_per_step: int
    log_interval: int  # steps between console lines
    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    data: SftData
    stop_word: str
    optimizer: OptimizerConfig
    learn: LearnConfig
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self):
        _require(self.steps > self.optimizer.warmup_steps, f"steps={self.steps} must be above optimizer.warmup_steps")
        _require(self.log_interval >= 1, f"log_interval={self.log_interval} must be at least 1")
        _require(self.examples_per_step >= 1, f"examples_per_step={self.examples_per_step} must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything an evaluation of a checkpoint or of running servers needs: conf/evaluate.yaml."""

    run_dir: str
    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    eval: EvalSetsConfig
    system_prompt: str = ""

    def __post_init__(self):
        _require(bool(self.eval.resolved()), "eval.data=FILE or +eval.sets.NAME=FILE must name questions")


@dataclass(frozen=True)
class PassrateConfig:
    """Everything tools/passrate.py needs: conf/passrate.yaml."""

    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    questions: str
    out: str
    questions_at_once: int
    system_prompt: str = ""  # as in training

    def __post_init__(self):
        _require(self.questions_at_once >= 1, f"questions_at_once={self.questions_at_once} must be at least 1")


def conf_dir() -> Path:
    """The Hydra configs: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).resolve().parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def load(schema: type, name: str, overrides: Sequence[str]):
    """Compose conf/<name>.yaml with command-line overrides into its dataclass.

    Raises:
        ValueError: one line; an unknown key, a wrong type, a missing value, or values that contradict each other.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(name, overrides=list(overrides))
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        _refuse_unknown(plain, schema)
        return msgspec.convert(plain, schema)
    except (HydraException, OmegaConfBaseException, msgspec.ValidationError) as error:
        raise ValueError("config: " + " ".join(str(error).replace("$.", "").split())) from error


def _refuse_unknown(values: dict, schema: type, path: str = "") -> None:
    """Every key of a composed config must be a field: a misspelt one would otherwise be silently without effect."""
    types = get_type_hints(schema)
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"config: unknown key {path}{name}; known: {', '.join(sorted(types))}")
        if is_dataclass(types[name]) and isinstance(value, dict):
            _refuse_unknown(value, types[name], f"{path}{name}.")
        for entry in _entries(types[name]):
            for key, one in value.items():
                if isinstance(one, dict):
                    _refuse_unknown(one, entry, f"{path}{name}.{key}.")


def _entries(kind: object) -> list[type]:
    """The dataclass that the entries of a dict[str, ...] may be, if any."""
    values = get_args(kind)[1:] if get_origin(kind) is dict else ()
    return [one for value in values for one in (value, *get_args(value)) if is_dataclass(one)]
