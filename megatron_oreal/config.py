"""What each command is configured with: composed from conf/ by Hydra, typed here, checked before anything starts.

A key's default and its meaning stand in conf/ alone. A dataclass says its type and what is allowed, and a key that no YAML sets is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

from megatron_oreal.checked import Checked, FilePath, Require
from megatron_oreal.data.config import QUESTION, DataConfig, Names, SftData, check_names
from megatron_oreal.evaluation.config import EvalConfig, EvalSetsConfig
from megatron_oreal.keys.compose import compose, groups_of, lost_choices
from megatron_oreal.keys.typed import Reading
from megatron_oreal.learn.config import CheckpointConfig, LearnConfig, OptimizerConfig, ParallelConfig, PolicyConfig, TokenRMConfig
from megatron_oreal.model.config import ComputeConfig, ModelConfig, sequence_multiple
from megatron_oreal.monitor.config import MonitorConfig, ProfileConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.verify.config import VerifyConfig

SEEDS = 1 << 32
"""So many there are for torch, Megatron and an engine's samples alike."""
MODES = ("train", "rollout_only", "train_only", "replay", "bench")
CHOICES = ("shortest", "nearest", "random")
"""Of select.by."""


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Everything an OREAL run needs: conf/train.yaml."""

    run_dir: FilePath
    seed: int
    steps: int
    memory_gib: float | None
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
    monitor: MonitorConfig
    profile: ProfileConfig
    resume: FilePath | None
    record: bool
    mode: str
    recorded: FilePath | None
    replay_step: int | None
    bench_steps: int | None

    def check(self, require: Require) -> None:
        _start_is_sound(self, require)
        require(self.mode in MODES, f"mode={self.mode!r} is not one of {', '.join(MODES)}")
        reads = self.mode in ("train_only", "replay")
        require((self.recorded is not None) == reads, f"recorded={self.recorded}: a folder is given if and only if mode reads one")
        require((self.replay_step is not None) == (self.mode == "replay"), f"replay_step={self.replay_step} goes with mode=replay")
        require((self.bench_steps is not None) == (self.mode == "bench"), f"bench_steps={self.bench_steps} goes with debug=bench")
        require(self.bench_steps is None or self.bench_steps >= 1, f"bench_steps={self.bench_steps} must be at least 1")
        frozen = self.policy.freeze_steps if self.objective.token_rm else 0
        require(self.steps > frozen, f"steps={self.steps} must be above policy.freeze_steps={frozen}, or the policy never learns")
        require(
            self.objective.token_rm or self.policy.freeze_steps == 0,
            "policy.freeze_steps must be 0 where objective.token_rm is false: nothing would be trained in those steps",
        )
        _answers_fit(self.rollout, require)
        if self.mode == "train":
            _takes_new_weights(self.rollout, require)
        _optimizer_fits("policy.optimizer", self.policy.optimizer, self, require)
        _optimizer_fits("token_rm.optimizer", self.token_rm.optimizer, self, require)
        warmup, scheduled = self.policy.optimizer.warmup_steps, self.policy.scheduled(self.steps)
        without = "" if scheduled == self.steps else f" without the {frozen} frozen ones (policy.warmup_counts_frozen=false)"
        require(warmup < scheduled, f"policy.optimizer.warmup_steps={warmup} must be below steps={self.steps}{without}")
        warmup = self.token_rm.optimizer.warmup_steps if self.objective.token_rm else 0
        require(warmup < self.steps, f"token_rm.optimizer.warmup_steps={warmup} must be below steps={self.steps}")
        require(
            self.objective.importance_cap is None or self.rollout.temperature == 1,
            f"objective.importance_cap compares with the engine's log-probabilities, which are of rollout.temperature="
            f"{self.rollout.temperature}; it needs 1",
        )
        longest, budget = self.rollout.max_total_tokens, self.learn.tokens_per_micro_batch
        padded = longest + -longest % sequence_multiple(self.parallel.cp)
        padding = f", padded to {padded} for parallel.cp={self.parallel.cp}" if padded > longest else ""
        require(padded <= budget, f"learn.tokens_per_micro_batch={budget} is below rollout.max_total_tokens={longest}{padding}")

    @property
    def last_step(self) -> int:
        """With which it ends, unless it stops early."""
        return self.replay_step or self.steps

    @property
    def has_engines(self) -> bool:
        """Whether anything is sampled."""
        return not self.recorded and self.mode != "bench"


@dataclass(frozen=True)
class SftConfig(Checked):
    """Everything a supervised start needs: conf/sft.yaml."""

    run_dir: FilePath
    seed: int
    steps: int
    examples_per_step: int
    log_interval: int
    memory_gib: float | None
    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    data: SftData
    optimizer: OptimizerConfig
    learn: LearnConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    monitor: MonitorConfig
    profile: ProfileConfig
    resume: FilePath | None

    def check(self, require: Require) -> None:
        _start_is_sound(self, require)
        require(
            self.rollout.placement != "disaggregated",
            "rollout.placement='disaggregated' is of OREAL runs: what a supervised start evaluates with is colocated or external",
        )
        require(self.steps > self.optimizer.warmup_steps, f"steps={self.steps} must be above optimizer.warmup_steps")
        _takes_new_weights(self.rollout, require)
        _optimizer_fits("optimizer", self.optimizer, self, require)
        require(self.log_interval >= 1, f"log_interval={self.log_interval} must be at least 1")
        require(self.examples_per_step >= 1, f"examples_per_step={self.examples_per_step} must be at least 1")

    @property
    def last_step(self) -> int:
        """With which it ends, unless it stops early."""
        return self.steps

    @property
    def has_engines(self) -> bool:
        """Whether it is evaluated: nothing else is sampled."""
        return self.eval.any


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Everything an evaluation of a checkpoint or of running servers needs: conf/evaluate.yaml."""

    run_dir: FilePath
    memory_gib: float | None
    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    eval: EvalSetsConfig
    system_prompt: str

    def check(self, require: Require) -> None:
        require(bool(self.run_dir), "run_dir must name a folder")
        _memory_is_some(self.memory_gib, require)
        require(bool(self.eval.resolved()), "eval.data=FILE or +eval.sets.NAME=FILE must name questions")


@dataclass(frozen=True)
class PassrateConfig(Checked):
    """Everything a measurement of pass rates needs: conf/passrate.yaml."""

    memory_gib: float | None
    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    questions: FilePath
    split: str | None
    fields: Names
    out: FilePath
    answers: FilePath | None
    questions_at_once: int
    system_prompt: str

    def check(self, require: Require) -> None:
        require(bool(self.out), "out must name a file")
        _memory_is_some(self.memory_gib, require)
        _answers_fit(self.rollout, require)
        check_names(self.fields, QUESTION, "fields.", require)
        require(self.questions_at_once >= 1, f"questions_at_once={self.questions_at_once} must be at least 1")
        require(self.answers != self.out, f"answers={self.answers} must be another file than out")


@dataclass(frozen=True)
class SelectConfig(Checked):
    """Everything a selection of sampled answers needs: conf/select.yaml."""

    answers: FilePath
    out: FilePath
    per_question: int
    by: str
    length: int | None
    longest: int | None
    seed: int

    def check(self, require: Require) -> None:
        require(self.out != self.answers, f"out={self.out} must be another file than answers")
        require(0 <= self.seed < SEEDS, f"seed={self.seed} must lie between 0 and {SEEDS - 1}")
        require(self.per_question >= 1, f"per_question={self.per_question} must be at least 1")
        require(self.by in CHOICES, f"by={self.by!r} is not one of {', '.join(CHOICES)}")
        require((self.length is not None) == (self.by == "nearest"), f"length={self.length} is given if and only if by=nearest")
        for name in ("length", "longest"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}={value} must be at least 1")


def _start_is_sound(config: "TrainConfig | SftConfig", require: Require) -> None:
    """Of what all that train have."""
    require(bool(config.run_dir), "run_dir must name a folder")
    require(0 <= config.seed < SEEDS, f"seed={config.seed} must lie between 0 and {SEEDS - 1}")
    _memory_is_some(config.memory_gib, require)
    wait, send = config.parallel.timeout_s, config.rollout.sync_timeout_s
    require(
        send <= wait, f"parallel.timeout_s={wait:g} is below rollout.sync_timeout_s={send:g}: ranks that wait for a sync would be ended"
    )


def _optimizer_fits(key: str, optimizer: OptimizerConfig, config: "TrainConfig | SftConfig", require: Require) -> None:
    """Moments of less than float32 are of an Adam that holds the master weights itself, as Transformer Engine's and its stand-in do; so is
    ours on the host, and Apex's is none."""
    whole, asked = optimizer.moments != "bfloat16", f"{key}.moments={optimizer.moments}"
    require(whole or config.model.dtype == "bfloat16", f"{asked} needs model.dtype=bfloat16")
    require(whole or config.compute.adam != "apex", f"{asked} needs Transformer Engine's Adam, not compute.adam=apex")
    require(not optimizer.on_host or config.compute.adam != "apex", f"{key}.on_host=true takes no compute.adam=apex")


def _memory_is_some(memory_gib: float | None, require: Require) -> None:
    require(memory_gib is None or memory_gib > 0, f"memory_gib={memory_gib} must be null or above 0")


def _takes_new_weights(rollout: RolloutConfig, require: Require) -> None:
    """See sync.carry.tp_size, which asks the engines themselves."""
    asked = rollout.server_args.get("quantization")
    require(not asked, f"rollout.server_args.quantization={asked}: SGLang cannot load new weights into those that it has quantized")


def _answers_fit(rollout: RolloutConfig, require: Require) -> None:
    """For whoever samples answers of rollout.max_new_tokens; an evaluation has a length of its own."""
    new, total = rollout.max_new_tokens, rollout.max_total_tokens
    require(new < total, f"rollout.max_new_tokens={new} must be below rollout.max_total_tokens={total}")


def load(schema: type, name: str, overrides: Sequence[str]):
    """Compose conf/<name>.yaml with command-line overrides into its dataclass.

    Raises:
        ValueError: all that is wrong, a line each: unknown keys, missing values, wrong types, and what a section requires; what sections
            require of each other once all of them are sound. What keeps Hydra from composing at all is one line by itself.
    """
    reading = Reading(schema, partial(groups_of, name), overrides)
    try:
        composed = compose(name, overrides, [field.name for field in fields(schema)])
        reading.wrong += lost_choices(composed, overrides)
        config = reading.read(composed)
        if reading.wrong:
            raise ValueError("\n".join(reading.wrong))
    except ValueError as error:
        raise ValueError("\n".join(f"config: {line}" for line in str(error).splitlines())) from error
    return config
