"""What a run trains on: one set of questions or several, as `data` says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_oreal.data.config import DataConfig, TrainSet
from megatron_oreal.data.fields import Fields
from megatron_oreal.data.questions import Question, QuestionSet, Remarks

REPEATED = "the question and the answer of an earlier row, left out"
CONTRADICTED = "the question of an earlier row and another answer"


@dataclass(frozen=True)
class TrainingQuestions:
    """All of them, set by set; with several sets each knows where it is from."""

    questions: list[Question]
    notes: list[str]  # what was read otherwise than it stands there, a line each


def read_training(config: DataConfig) -> TrainingQuestions:
    """The questions of all sets of a run. Raises ValueError as QuestionSet does."""
    sets, questions, notes = config.resolved(), [], []
    for name, one in sets.items():
        remarks = Remarks()
        found = list(_distinct(one, remarks))
        if not found:
            raise ValueError(f"{one.data}: no question with an answer ({'; '.join(remarks.lines())})")
        questions += [replace(q, id=f"{name}/{q.id}", origin=name) for q in found] if len(sets) > 1 else found
        notes += [f"data: {name}: {line}" for line in remarks.lines()]
    return TrainingQuestions(questions, notes)


def _distinct(one: TrainSet, remarks: Remarks) -> Iterator[Question]:
    """Each question of a set once: DAPO-Math-17k has every one a hundred times."""
    golds: dict[str, list[str]] = {}
    for row, question in QuestionSet(one.data, one.split, Fields.named(one.fields)).read(remarks):
        if question is None:
            continue
        known = golds.setdefault(question.question, [])
        if question.gold_answer in known:
            remarks.add(REPEATED, row.place)
            continue
        if known:
            remarks.add(CONTRADICTED, row.place)
        known.append(question.gold_answer)
        yield question
