"""Where a run stands after a step, as it is saved with every checkpoint; everything but the tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import msgspec

from megatron_oreal.config import TrainConfig
from megatron_oreal.evaluation.figures import Evaluation
from megatron_oreal.learn.checkpoint import STATE
from megatron_oreal.model.hf_files import fingerprint
from megatron_oreal.trajectory import TrainBatch, Unfinished

OF_A_START = ("resume", "run_dir", "memory_gib", "mode", "recorded", "replay_step", "record", "profile", "monitor")
"""Keys and sections that say nothing of what is trained."""
SAID = 12
"""Changed settings that are named."""


@dataclass(frozen=True)
class RunState:
    """Rank 0's is saved; the other ranks know step and version."""

    step: int = 0  # optimizer steps done
    version: int = 0  # policy version
    drawn: int = 0  # prompts drawn
    selector: str = ""  # state of selection's random generator, hexadecimal; empty: as at the start
    seconds: float = 0.0  # age of the run
    evaluations: dict[int, dict[str, Evaluation]] = field(default_factory=dict)  # step -> set -> figures
    validation: dict[int, list[float]] = field(default_factory=dict)  # step -> score of each validation question
    validation_set: str = ""  # which questions those are
    pending: TrainBatch | None = None  # sampled and selected for the next step, but not trained on yet
    unfinished: list[Unfinished] = field(default_factory=list)  # questions that were drawn, and are for a later step
    noted: dict[str, float] = field(default_factory=dict)  # metrics of that step so far
    unwritten: bool = False  # `noted` are those of `step` itself, which has no line in metrics.jsonl yet
    settings: dict[str, object] = field(default_factory=dict)  # dotted key -> value, of the configuration that it was saved under
    model: str = ""  # fingerprint of model.path, from which the reference starts again; empty: unknown

    @property
    def score(self) -> float | None:
        """Of these very weights on the validation set; None where there is none, or they were not evaluated. No test set counts."""
        return fmean(self.validation[self.step]) if self.step in self.validation else None


def settings_of(config: TrainConfig) -> dict[str, object]:
    """All leaves of a configuration that say what is trained, as JSON has them."""
    leaves = _leaves(msgspec.json.decode(msgspec.json.encode(asdict(config))))
    return {key: value for key, value in leaves if key.partition(".")[0] not in OF_A_START}


def changed_since(checkpoint: Path | None, config: TrainConfig) -> list[str]:
    """What is given otherwise than the checkpoint was saved under, which counts from now on: a line, or none.

    Raises:
        ValueError: model.path is not what it was: the reference and the KL term would be those of another model.
    """
    if checkpoint is None:
        return []
    before = msgspec.json.decode((checkpoint / STATE).read_bytes(), type=_Settings)
    if before.model and fingerprint(config.model.path) != before.model:
        raise ValueError(f"model.path: {config.model.path} holds other weights than those that the run of {checkpoint} began with")
    if not before.settings:
        return []
    now = settings_of(config)
    changed = [f"{k}={now.get(k)} (was {before.settings.get(k)})" for k in now | before.settings if now.get(k) != before.settings.get(k)]
    more = f" and {len(changed) - SAID} more" if len(changed) > SAID else ""
    return [f"resume: what is given now counts: {', '.join(changed[:SAID])}{more}"] if changed else []


@dataclass(frozen=True)
class _Settings:
    """As much of a state as that takes."""

    settings: dict[str, object] = field(default_factory=dict)
    model: str = ""


def _leaves(values: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
