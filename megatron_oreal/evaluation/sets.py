"""Question sets to be evaluated, read as those trained on are; with what tables are made by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megatron_oreal.data.fields import Fields, label_of
from megatron_oreal.data.questions import Question, QuestionSet, Remarks
from megatron_oreal.data.rows import Row
from megatron_oreal.evaluation.config import EvalSet

LABELS = {
    "subject": ("subfield", "subject", "Subject", "type", "problem_type", "category", "kind"),
    "level": ("level", "Level", "difficulty"),
}
"""Field -> what it is called, the first that a row has; as data.fields.KNOWN."""


@dataclass(frozen=True)
class Problem:
    """A question with what tables are made by."""

    question: Question
    subject: str | None = None
    level: str | None = None


@dataclass(frozen=True)
class ProblemSet:
    """One set and how it is asked."""

    name: str
    problems: list[Problem]
    asked: EvalSet  # with everything filled in
    notes: list[str] = field(default_factory=list)  # what was read otherwise than it stands there, a line each


def read_sets(sets: dict[str, EvalSet]) -> list[ProblemSet]:
    """All sets, in the order given. Raises ValueError as read_problems does."""
    return [_read(name, one) for name, one in sets.items()]


def _read(name: str, one: EvalSet) -> ProblemSet:
    remarks = Remarks()
    problems = read_problems(one.data, one.split, one.fields, remarks)
    return ProblemSet(name, problems, one, [f"eval: {name}: {line}" for line in remarks.lines()])


def read_problems(
    data: str | Path, split: str | None = None, fields: Mapping[str, str | None] | None = None, remarks: Remarks | None = None
) -> list[Problem]:
    """The problems of a file or folder, in order; of a folder with several splits, and none named, those of "test".

    Raises:
        ValueError: file, line (row) and field of the first that cannot be read; no such file, no questions, or several splits.
    """
    where = Fields.named(fields or {}, LABELS)
    rows = QuestionSet(data, split, where, default="test").read(remarks or Remarks())
    return [_problem(row, question, where) for row, question in rows if question]


def _problem(row: Row, question: Question, fields: Fields) -> Problem:
    subject, level = (label_of(row, fields, label) for label in LABELS)
    return Problem(question, subject, level.removeprefix("Level ") if level else None)
