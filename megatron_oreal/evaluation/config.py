"""What is evaluated, how it is asked, and what picks the best checkpoint. Defaults and meanings stand in conf/eval/."""

from dataclasses import dataclass, fields

from megatron_oreal.checked import Checked, FilePath, Require
from megatron_oreal.data.config import QUESTION, Names, check_names, own_name

VALIDATION = "validation"
"""The set held out of the training questions."""
FIELDS = (*QUESTION, "subject", "level")
"""Ours: of a question, and what tables are made by."""


@dataclass(frozen=True)
class EvalSet:
    """One entry of eval.sets; what it leaves open is as in `eval`."""

    data: FilePath  # JSONL, Parquet or Arrow file, or a folder with such files (a Hugging Face data set, downloaded or saved)
    split: str | None = None  # of a folder; None: the only one, else test
    fields: Names | None = None
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    k: list[int] | None = None


@dataclass(frozen=True)
class EvalSetsConfig(Checked):
    """Sets and how they are asked: each question once greedily, and `samples` times at `temperature` where that is 2 or more."""

    data: FilePath | None
    sets: dict[str, FilePath | EvalSet]  # name -> file or folder, or all of an EvalSet
    fields: Names
    samples: int
    temperature: float
    top_p: float
    k: list[int]
    max_new_tokens: int

    def check(self, require: Require) -> None:
        require(self.max_new_tokens >= 1, f"max_new_tokens={self.max_new_tokens} must be at least 1")
        require(self.data is None or own_name(self.data) not in self.sets, f"sets.{own_name(self.data)}: eval.data has the same name")
        check_names(self.fields, FIELDS, "fields.", require)
        self._check_set("", EvalSet("any"), require)
        for name, one in self._given().items():
            self._check_set(f"sets.{name}.", one, require)

    def _check_set(self, path: str, own: EvalSet, require: Require) -> None:
        """What the set leaves open is wrong in `eval`, and said of that."""
        check_names(own.fields or {}, FIELDS, f"{path}fields.", require)
        one = self.filled(own)
        samples, temperature, top_p, k = (
            f"{name if getattr(own, name) is None else path + name}={getattr(one, name)}"
            for name in ("samples", "temperature", "top_p", "k")
        )
        require(one.samples >= 0, f"{samples} must not be negative")
        require(one.temperature > 0, f"{temperature} must be above 0: the greedy answer is asked anyway")
        require(0 < one.top_p <= 1, f"{top_p} must be above 0 and at most 1")
        require(all(1 <= number <= one.samples for number in one.k), f"{k}: each must lie between 1 and samples={one.samples}")

    def resolved(self) -> dict[str, EvalSet]:
        """All sets by name, eval.data first, with nothing but `split` left open."""
        return {name: self.filled(one) for name, one in self._given().items()}

    def _given(self) -> dict[str, EvalSet]:
        given = ({own_name(self.data): self.data} if self.data else {}) | self.sets
        return {name: EvalSet(one) if isinstance(one, str) else one for name, one in given.items()}

    def filled(self, one: EvalSet) -> EvalSet:
        """With what stands in `eval` where it says nothing."""
        own = {f.name: getattr(one, f.name) for f in fields(EvalSet)}
        filled = {name: getattr(self, name) if value is None and name != "split" else value for name, value in own.items()}
        if not filled["k"]:
            filled["k"] = [filled["samples"]]
        filled["fields"] = self.fields | filled["fields"]
        return EvalSet(**filled | {"k": filled["k"] if filled["samples"] > 1 else []})


@dataclass(frozen=True)
class EvalConfig(EvalSetsConfig):
    """Evaluation during training."""

    interval: int
    validation: int
    validation_samples: int
    patience: int | None

    def check(self, require: Require) -> None:
        super().check(require)
        require(self.interval >= 1, f"interval={self.interval} must be at least 1")
        require(self.validation >= 0, f"validation={self.validation} must not be negative")
        require(self.validation_samples >= 0, f"validation_samples={self.validation_samples} must not be negative")
        require(VALIDATION not in self.resolved(), f"sets.{VALIDATION}: the name is that of the questions held out; choose another")
        require(self.patience is None or self.patience >= 1, f"patience={self.patience} must be null or at least 1")
        require(self.patience is None or self.validation > 0, "patience needs a validation set: set eval.validation")

    def wanted(self, step: int, last_step: int) -> bool:
        """Whether the weights after this step are to be evaluated; 0: before training."""
        return step % self.interval == 0 or step == last_step

    @property
    def any(self) -> bool:
        """Whether there is anything to be asked."""
        return bool(self.resolved()) or self.validation > 0

    @property
    def of_validation(self) -> EvalSet:
        """How the questions held out are asked."""
        return self.filled(EvalSet(VALIDATION, samples=self.validation_samples, k=[self.validation_samples]))
