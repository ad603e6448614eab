"""What is trained on. Defaults and meanings stand in conf/."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from math import isfinite
from pathlib import Path

from megatron_oreal.checked import Checked, FilePath, Require

Names = dict[str, str | None]
"""What a set calls a field of ours (`reward_model.ground_truth` is a field in a field); None: it has none, whatever stands there."""
QUESTION = ("question", "gold_answer", "solution", "id", "pass_rate")
"""Our fields of a question; gold_answer or solution, from which the answer is taken."""
EXAMPLE = ("question", "response", "gold_answer", "solution")
"""And of a supervised example, which needs the first two."""


def check_names(names: Names, known: tuple[str, ...], path: str, require: Require) -> None:
    """Only fields that there are, and none left out that must be there."""
    for field, name in names.items():
        require(field in known, f"{path}{field} is no field of ours; they are {', '.join(known)}")
        require(name is not None or field not in EXAMPLE[:2], f"{path}{field}=None: there must be one")
        require(name != "", f"{path}{field} must not be empty")


@dataclass(frozen=True)
class TrainSet:
    """One entry of data.sets; what it leaves open is as in `data`."""

    data: FilePath  # file or folder, as data.train
    split: str | None = None  # of a folder; None: the only one, else train
    weight: float | None = None  # its share of all questions drawn, relative to the other sets' (data.prompts.Turns); all have one, or none
    fields: Names | None = None


@dataclass(frozen=True)
class DataConfig(Checked):
    """Training questions: conf/data/."""

    train: FilePath | None
    sets: dict[str, FilePath | TrainSet]  # name -> file or folder, or all of a TrainSet
    fields: Names
    questions_per_step: int
    system_prompt: str
    balance: list[tuple[float, int]]  # (upper end of the pass-rate band, repeats)

    def check(self, require: Require) -> None:
        require(self.questions_per_step >= 1, f"questions_per_step={self.questions_per_step} must be at least 1")
        ends = [band[0] for band in self.balance]
        require(ends == sorted(ends), f"balance: band ends {ends} must rise")
        require(self.train is not None or bool(self.sets), "train is missing: data.train=FILE, or data.sets.NAME=FILE for each of several")
        require(self.train is None or own_name(self.train) not in self.sets, f"sets.{own_name(self.train)}: data.train has the same name")
        check_names(self.fields, QUESTION, "fields.", require)
        for name, one in self._given().items():
            check_names(one.fields or {}, QUESTION, f"sets.{name}.fields.", require)
            fine = one.weight is None or (isfinite(one.weight) and one.weight > 0)
            require(fine, f"sets.{name}.weight={one.weight} must be above 0")
        without = [name for name in self._given() if name not in self.weights]
        require(not (self.weights and without), f"sets: {', '.join(without)} must have a weight as the others have, or none of them")

    def resolved(self) -> dict[str, TrainSet]:
        """All sets by name, data.train first, with nothing but `split` and `weight` left open."""
        return {name: replace(one, fields=self.fields | (one.fields or {})) for name, one in self._given().items()}

    @property
    def weights(self) -> Mapping[str, float]:
        """Set -> weight; empty where none was given."""
        return {name: one.weight for name, one in self._given().items() if one.weight is not None}

    def _given(self) -> dict[str, TrainSet]:
        given = ({own_name(self.train): self.train} if self.train is not None else {}) | self.sets
        return {name: TrainSet(one) if isinstance(one, str) else one for name, one in given.items()}


def own_name(data: str | None) -> str:
    """Of a set that was given by its file or folder alone."""
    return reduce(str.removesuffix, (".gz", ".jsonl", ".json", ".parquet", ".arrow"), Path(data or "").name)


@dataclass(frozen=True)
class SftData(Checked):
    """Supervised examples: conf/sft.yaml."""

    train: FilePath
    fields: Names
    system_prompt: str

    def check(self, require: Require) -> None:
        check_names(self.fields, EXAMPLE, "fields.", require)
