"""What each command is configured with: composed from conf/ by Hydra, typed here, checked before anything starts.

A key's default and its meaning stand in conf/ alone. A dataclass says its type and what is allowed, and a key that no YAML sets is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import msgspec
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_oreal.checked import Checked, Require
from megatron_oreal.data.config import DataConfig, SftData
from megatron_oreal.evaluation.config import EvalConfig, EvalSetsConfig
from megatron_oreal.learn.config import CheckpointConfig, LearnConfig, OptimizerConfig, ParallelConfig, PolicyConfig, TokenRMConfig
from megatron_oreal.model.config import ComputeConfig, ModelConfig, sequence_multiple
from megatron_oreal.monitor.config import MonitorConfig, ProfileConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.verify.config import VerifyConfig

MODES = ("train", "rollout_only", "train_only", "replay")


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Everything an OREAL run needs: conf/train.yaml."""

    run_dir: str
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
    resume: str | None
    record: bool
    mode: str
    recorded: str | None
    replay_step: int | None

    def check(self, require: Require) -> None:
        require(self.mode in MODES, f"mode={self.mode!r} is not one of {', '.join(MODES)}")
        reads = self.mode in ("train_only", "replay")
        require((self.recorded is not None) == reads, f"recorded={self.recorded}: a folder is given if and only if mode reads one")
        require((self.replay_step is not None) == (self.mode == "replay"), f"replay_step={self.replay_step} goes with mode=replay")
        frozen = self.policy.freeze_steps if self.objective.token_rm else 0
        require(self.steps > frozen, f"steps={self.steps} must be above policy.freeze_steps={frozen}, or the policy never learns")
        require(
            self.objective.token_rm or self.policy.freeze_steps == 0,
            "policy.freeze_steps must be 0 where objective.token_rm is false: nothing would be trained in those steps",
        )
        _answers_fit(self.rollout, require)
        trained = {"policy": self.policy.optimizer} | ({"token_rm": self.token_rm.optimizer} if self.objective.token_rm else {})
        for name, optimizer in trained.items():
            require(optimizer.warmup_steps < self.steps, f"{name}.optimizer.warmup_steps={optimizer.warmup_steps} >= steps={self.steps}")
        require(
            self.objective.importance_cap is None or self.rollout.temperature == 1,
            f"objective.importance_cap compares with the engine's log-probabilities, which are of rollout.temperature="
            f"{self.rollout.temperature}; it needs 1",
        )
        longest, budget = self.rollout.max_total_tokens, self.learn.tokens_per_micro_batch
        padded = longest + -longest % sequence_multiple(self.parallel.cp)
        padding = f", padded to {padded} for parallel.cp={self.parallel.cp}" if padded > longest else ""
        require(padded <= budget, f"learn.tokens_per_micro_batch={budget} is below rollout.max_total_tokens={longest}{padding}")


@dataclass(frozen=True)
class SftConfig(Checked):
    """Everything a supervised start needs: conf/sft.yaml."""

    run_dir: str
    seed: int
    steps: int
    examples_per_step: int
    log_interval: int
    memory_gib: float | None
    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    data: SftData
    stop_word: str
    optimizer: OptimizerConfig
    learn: LearnConfig
    monitor: MonitorConfig

    def check(self, require: Require) -> None:
        require(self.steps > self.optimizer.warmup_steps, f"steps={self.steps} must be above optimizer.warmup_steps")
        require(self.log_interval >= 1, f"log_interval={self.log_interval} must be at least 1")
        require(self.examples_per_step >= 1, f"examples_per_step={self.examples_per_step} must be at least 1")


@dataclass(frozen=True)
class EvaluateConfig(Checked):
    """Everything an evaluation of a checkpoint or of running servers needs: conf/evaluate.yaml."""

    run_dir: str
    memory_gib: float | None
    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    eval: EvalSetsConfig
    system_prompt: str

    def check(self, require: Require) -> None:
        require(bool(self.eval.resolved()), "eval.data=FILE or +eval.sets.NAME=FILE must name questions")


@dataclass(frozen=True)
class PassrateConfig(Checked):
    """Everything tools/passrate.py needs: conf/passrate.yaml."""

    memory_gib: float | None
    model: ModelConfig
    rollout: RolloutConfig
    verify: VerifyConfig
    questions: str
    out: str
    questions_at_once: int
    system_prompt: str

    def check(self, require: Require) -> None:
        _answers_fit(self.rollout, require)
        require(self.questions_at_once >= 1, f"questions_at_once={self.questions_at_once} must be at least 1")


def _answers_fit(rollout: RolloutConfig, require: Require) -> None:
    """For whoever samples answers of rollout.max_new_tokens; an evaluation has a length of its own."""
    new, total = rollout.max_new_tokens, rollout.max_total_tokens
    require(new < total, f"rollout.max_new_tokens={new} must be below rollout.max_total_tokens={total}")


def conf_dir() -> Path:
    """The Hydra configs: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).resolve().parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def load(schema: type, name: str, overrides: Sequence[str]):
    """Compose conf/<name>.yaml with command-line overrides into its dataclass.

    Raises:
        ValueError: all that is wrong, a line each: unknown keys, missing values, wrong types, and what a section requires; what sections
            require of each other once all of them are sound. What keeps Hydra from composing at all is one line by itself.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose(name, overrides=[_forced(override) for override in overrides])
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError("config: " + " ".join(str(error).split())) from error
    wrong = list(_lost_choices(plain, overrides))
    config = _section(schema, plain, "", wrong)
    if wrong:
        raise ValueError("\n".join(f"config: {line}" for line in wrong))
    return config


def _forced(override: str) -> str:
    """`a.b=x` as `++a.b=x`: keys of the user's own (rollout.server_args, eval.sets) need no plus, and unknown ones are ours to refuse."""
    path, equals, _ = override.partition("=")
    chooses = (conf_dir() / path.partition("@")[0]).is_dir()  # a file of a group: experiment=demo
    return f"++{override}" if equals and path[:1].isalpha() and not chooses else override


def _lost_choices(composed: dict, overrides: Sequence[str]) -> Iterator[str]:
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
                yield f"{group}={choice} sets {path}={value}, but the experiment sets {has}; give {path}=... as well"


def _section(schema: type, values: dict, path: str, wrong: list[str]):
    """A composed section as its dataclass; None where something in it is wrong, which is added to `wrong`, a line each."""
    types, before, section = get_type_hints(schema), len(wrong), None
    given = {name: value for name, value in values.items() if value != MISSING}
    for field in fields(schema):
        if field.name not in given and field.default is NO_DEFAULT:
            wrong.append(f"{path}{field.name} is missing")
    typed = {name: _typed(types[name], value, f"{path}{name}", wrong) for name, value in given.items() if name in types}
    if len(wrong) == before:
        try:
            section = schema(**typed)
        except ValueError as error:
            wrong += [f"{path}{line}" for line in str(error).splitlines()]
    wrong += [f"unknown key {path}{name}; known: {', '.join(sorted(types))}" for name in values if name not in types]
    return section


def _typed(kind: object, value: object, path: str, wrong: list[str]):
    """A composed value as what the schema says it is; as _section."""
    if isinstance(value, dict) and get_origin(kind) is dict:
        return {key: _typed(get_args(kind)[1], one, f"{path}.{key}", wrong) for key, one in value.items()}
    schema = next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
    if isinstance(value, dict) and schema:
        return _section(schema, value, f"{path}.", wrong)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        wrong.append(f"{path}={value!r}: {error}")
