"""What is evaluated, how it is asked, and what picks the best checkpoint. Defaults and meanings stand in conf/eval/."""

from dataclasses import dataclass, fields
from pathlib import Path

VALIDATION = "validation"
"""The set held out of the training questions."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class EvalSet:
    """One entry of eval.sets; what it leaves open is as in `eval`."""

    data: str  # JSONL, Parquet or Arrow file, or a folder with such files (a Hugging Face data set, downloaded or saved)
    split: str | None = None  # of a folder; None: the only one, else test
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    k: list[int] | None = None


@dataclass(frozen=True)
class EvalSetsConfig:
    """Sets and how they are asked: each question once greedily, and `samples` times at `temperature` where that is 2 or more."""

    data: str | None
    sets: dict[str, str | EvalSet]  # name -> file or folder, or all of an EvalSet
    samples: int
    temperature: float
    top_p: float
    k: list[int]
    max_new_tokens: int

    def __post_init__(self):
        _require(self.max_new_tokens >= 1, f"eval.max_new_tokens={self.max_new_tokens} must be at least 1")
        _require(self.data is None or self._own_name not in self.sets, f"eval.sets.{self._own_name}: eval.data has the same name")
        for name, one in self.resolved().items():
            _check(one, f"eval.sets.{name}" if name in self.sets else "eval")

    @property
    def _own_name(self) -> str:
        return Path(self.data or "").stem

    def resolved(self) -> dict[str, EvalSet]:
        """All sets by name, eval.data first, with nothing but `split` left open."""
        given = ({self._own_name: self.data} if self.data else {}) | self.sets
        return {name: self.filled(EvalSet(one) if isinstance(one, str) else one) for name, one in given.items()}

    def filled(self, one: EvalSet) -> EvalSet:
        """With what stands in `eval` where it says nothing."""
        own = {f.name: getattr(one, f.name) for f in fields(EvalSet)}
        filled = {name: getattr(self, name) if value is None and name != "split" else value for name, value in own.items()}
        if not filled["k"]:
            filled["k"] = [filled["samples"]]
        return EvalSet(**filled | {"k": filled["k"] if filled["samples"] > 1 else []})


def _check(one: EvalSet, name: str) -> None:
    _require(one.samples >= 0, f"{name}.samples={one.samples} must not be negative")
    _require(one.temperature > 0, f"{name}.temperature={one.temperature} must be above 0: the greedy answer is asked anyway")
    _require(0 < one.top_p <= 1, f"{name}.top_p={one.top_p} must be above 0 and at most 1")
    _require(all(1 <= k <= one.samples for k in one.k), f"{name}.k={one.k}: each must lie between 1 and samples={one.samples}")


@dataclass(frozen=True)
class EvalConfig(EvalSetsConfig):
    """Evaluation during training."""

    interval: int
    validation: int
    validation_samples: int
    patience: int | None

    def __post_init__(self):
        super().__post_init__()
        _require(self.interval >= 1, f"eval.interval={self.interval} must be at least 1")
        _require(self.validation >= 0, f"eval.validation={self.validation} must not be negative")
        _require(self.validation_samples >= 0, f"eval.validation_samples={self.validation_samples} must not be negative")
        _require(VALIDATION not in self.resolved(), f"eval.sets.{VALIDATION}: the name is that of the questions held out; choose another")
        _require(self.patience is None or self.patience >= 1, f"eval.patience={self.patience} must be null or at least 1")
        _require(self.patience is None or self.validation > 0, "eval.patience needs a validation set: set eval.validation")

    @property
    def of_validation(self) -> EvalSet:
        """How the questions held out are asked."""
        return self.filled(EvalSet(VALIDATION, samples=self.validation_samples, k=[self.validation_samples]))
