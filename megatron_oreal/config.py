"""What each command is configured with: composed from conf/ by Hydra, typed here, checked before anything starts.

A key's default and its meaning stand in conf/ alone. A dataclass says its type and what is allowed, and a key that no YAML sets is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import msgspec
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_oreal.data.config import DataConfig, SftData
from megatron_oreal.evaluation.config import EvalConfig, EvalSetsConfig
from megatron_oreal.learn.config import CheckpointConfig, LearnConfig, OptimizerConfig, ParallelConfig, PolicyConfig, TokenRMConfig
from megatron_oreal.model.config import ComputeConfig, ModelConfig, sequence_multiple
from megatron_oreal.monitor.config import MonitorConfig, ProfileConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.verify.config import VerifyConfig

MODES = ("train", "rollout_only", "train_only", "replay")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


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
    monitor: MonitorConfig
    profile: ProfileConfig
    resume: str | None
    record: bool
    mode: str
    recorded: str | None
    replay_step: int | None

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
        self.rollout.check_lengths()
        trained = {"policy": self.policy.optimizer} | ({"token_rm": self.token_rm.optimizer} if self.objective.token_rm else {})
        for name, optimizer in trained.items():
            _require(optimizer.warmup_steps < self.steps, f"{name}.optimizer.warmup_steps={optimizer.warmup_steps} >= steps={self.steps}")
        _require(
            self.objective.importance_cap is None or self.rollout.temperature == 1,
            f"objective.importance_cap compares with the engine's log-probabilities, which are of rollout.temperature="
            f"{self.rollout.temperature}; it needs 1",
        )
        longest, budget = self.rollout.max_total_tokens, self.learn.tokens_per_micro_batch
        padded = longest + -longest % sequence_multiple(self.parallel.cp)
        padding = f", padded to {padded} for parallel.cp={self.parallel.cp}" if padded > longest else ""
        _require(padded <= budget, f"learn.tokens_per_micro_batch={budget} is below rollout.max_total_tokens={longest}{padding}")


@dataclass(frozen=True)
class SftConfig:
    """Everything a supervised start needs: conf/sft.yaml."""

    run_dir: str
    seed: int
    steps: int
    examples_per_step: int
    log_interval: int
    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    data: SftData
    stop_word: str
    optimizer: OptimizerConfig
    learn: LearnConfig
    monitor: MonitorConfig

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
    system_prompt: str

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
    system_prompt: str

    def __post_init__(self):
        self.rollout.check_lengths()
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
            composed = compose(name, overrides=[_free(override, schema) for override in overrides])
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        _refuse_unknown(plain, schema)
        _refuse_lost_choices(plain, overrides)
        return msgspec.convert(plain, schema)
    except (HydraException, OmegaConfBaseException, msgspec.ValidationError) as error:
        raise ValueError("config: " + " ".join(str(error).replace("$.", "").split())) from error


def _refuse_lost_choices(composed: dict, overrides: Sequence[str]) -> None:
    """A group chosen on the command line (parallel=tp2) is composed before the experiment, whose own values would win without a word."""
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    for group, _, choice in (override.partition("=") for override in overrides):
        file = conf_dir() / group / f"{choice}.yaml"
        own = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}
        if "defaults" not in own or group in ("experiment", "debug"):
            continue  # no choice, or a whole group that an experiment may well add to
        for key, value in own.items():
            has, path = composed[group].get(key), f"{group}.{key}"
            if key != "defaults" and not isinstance(value, dict) and has != value and path not in given:
                raise ValueError(f"config: {group}={choice} sets {path}={value}, but the experiment sets {has}; give {path}=... as well")


def _free(override: str, schema: type) -> str:
    """`a.b=x` as Hydra wants it (`++a.b=x`) where `a`, or a part of it, has no keys of its own: rollout.server_args, eval.sets."""
    path, equals, _ = override.partition("=")
    kind: object = schema
    for name in path.split(".") if equals and path[:1].isalpha() else ():
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
        if get_origin(kind) is dict:
            return f"++{override}"
    return override


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
