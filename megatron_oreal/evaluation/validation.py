"""The questions that pick the best checkpoint and end a run early: held out of the training questions."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_oreal.data.questions import Question
from megatron_oreal.evaluation.config import VALIDATION, EvalConfig
from megatron_oreal.evaluation.sets import Problem, ProblemSet


@dataclass(frozen=True)
class HeldOut:
    """Training questions, divided."""

    train: list[Question]
    validation: list[Question]
    duplicates: int  # further lines with the text of one held out: in neither


def hold_out(questions: Sequence[Question], count: int, seed: int) -> HeldOut:
    """Hold out `count` questions, the same for the same seed, as hard and as easy as all of them.

    The distinct questions are ordered by pass rate, at random where it is equal, and taken at equal distances. No text held out is
    trained on: further lines with the same one are left out.

    Raises:
        ValueError: nothing would be left to train on.
    """
    distinct = {_text(question): question for question in reversed(questions)}  # the first line of each
    if count >= len(distinct):
        raise ValueError(f"eval.validation={count} leaves nothing of {len(distinct)} distinct training questions; set it lower, or to 0")
    if count == 0:
        return HeldOut(list(questions), [], 0)
    rng = random.Random(f"{seed}/validation")
    places = {text: rng.random() for text in sorted(distinct)}
    ordered = sorted(distinct, key=lambda text: (-1.0 if (rate := distinct[text].pass_rate) is None else rate, places[text]))
    start = rng.random()
    chosen = {ordered[int((i + start) * len(ordered) / count)] for i in range(count)}
    train = [q for q in questions if _text(q) not in chosen]
    validation = [q for q in questions if (text := _text(q)) in chosen and distinct[text] is q]
    return HeldOut(train, validation, len(questions) - len(train) - len(validation))


def overlaps(questions: Sequence[Question], sets: Sequence[ProblemSet]) -> dict[str, int]:
    """Set -> how many of its questions are among the training questions; those with none left out."""
    texts = {_text(question) for question in questions}
    found = {one.name: sum(_text(problem.question) in texts for problem in one.problems) for one in sets}
    return {name: number for name, number in found.items() if number}


def _text(question: Question) -> str:
    """What makes two questions the same: all but space and case."""
    return "".join(question.question.split()).casefold()


def validation_set(questions: Sequence[Question], config: EvalConfig) -> ProblemSet:
    """The questions held out, as a set to be evaluated."""
    return ProblemSet(VALIDATION, [Problem(question) for question in questions], config.of_validation)


def digest(problem_set: ProblemSet) -> str:
    """Tells validation sets apart: the scores of one say nothing of another."""
    asked = f"{problem_set.asked.samples}/{problem_set.asked.temperature}/{problem_set.asked.top_p}"
    texts = [problem.question.question for problem in problem_set.problems]
    return hashlib.sha256(json.dumps([asked, *texts]).encode()).hexdigest()[:16]
