"""Questions held out are never trained on; what the scores say of a run."""

import random
from dataclasses import replace
from statistics import fmean

import pytest

from megatron_oreal.coordinator.coordinator import Coordinator
from megatron_oreal.coordinator.selector import Selector
from megatron_oreal.data.questions import Question
from megatron_oreal.debug import RecordedSteps
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.evaluation.early_stopping import EarlyStopping, early_stopping, improves
from megatron_oreal.evaluation.history import EvaluationHistory
from megatron_oreal.evaluation.sets import Problem, ProblemSet
from megatron_oreal.evaluation.validation import hold_out, overlaps
from megatron_oreal.monitor.reporter import Reporter
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import finish
from tests.settings import monitor_config, shipped


def questions(count: int = 200) -> list[Question]:
    rng = random.Random(1)
    rated = [Question(f"q{i}", f"What is {i} + {i}?", "7", rng.choice([0.0, 0.1, 0.5, 0.9])) for i in range(count)]
    again = [Question(f"again{i}", f"  what is {i} +\n{i}?", "8", 0.5) for i in range(0, count, 4)]  # the same text, but for case and space
    return rated + again


def text(question: Question) -> str:
    return "".join(question.question.split()).lower()


@pytest.mark.parametrize("count", [1, 40, 199])
def test_no_text_held_out_is_trained_on(count):
    everything = questions()
    held = hold_out(everything, count, seed=3)
    assert len(held.validation) == count
    assert not {text(q) for q in held.validation} & {text(q) for q in held.train}
    assert len(held.train) + len(held.validation) + held.duplicates == len(everything)
    assert {text(q) for q in held.validation} | {text(q) for q in held.train} == {text(q) for q in everything}
    sets = [ProblemSet(name, [Problem(q) for q in some], EvalSet("")) for name, some in (("held", held.validation), ("all", everything))]
    assert overlaps(held.train, sets) == {"all": len(held.train)}


def test_it_is_the_same_for_the_same_seed_and_as_hard_as_the_rest():
    everything = questions()
    held = hold_out(everything, 40, seed=3)
    assert hold_out(everything, 40, seed=3) == held
    other = hold_out(everything, 40, seed=4)
    assert {q.id for q in other.validation} != {q.id for q in held.validation}
    for some in (held, other):
        for rate in (0.0, 0.1, 0.5, 0.9):  # taken at equal distances: each band has its share, up to one at either end
            share = sum(q.pass_rate == rate for q in everything[:200]) / 200
            assert abs(sum(q.pass_rate == rate for q in some.validation) - 40 * share) < 2


def test_too_many_are_refused_and_none_changes_nothing():
    with pytest.raises(ValueError, match="eval.validation=200 leaves nothing of 200 distinct training questions"):
        hold_out(questions(), 200, seed=0)
    assert hold_out(questions(), 0, seed=0).train == questions()


def scored(*rights: int, of: int = 100) -> list[list[float]]:
    """The questions are right in a fixed order, as far as the number goes."""
    return [[1.0] * right + [0.0] * (of - right) for right in rights]


def test_a_run_ends_when_the_scores_have_not_improved_for_long():
    steps = dict(zip(range(0, 70, 10), scored(40, 60, 70, 70, 69, 68, 71), strict=True))
    standings = [early_stopping({s: steps[s] for s in range(0, last + 1, 10)}) for last in steps]
    assert [now.without for now in standings] == [0, 0, 0, 1, 2, 3, 4]
    assert [now.best for now in standings] == [0, 10, 20, 30, 30, 30, 60]  # of two alike the later one
    assert [now.is_due(3) for now in standings] == [False] * 5 + [True, True]
    assert not any(now.is_due(None) for now in standings)
    assert early_stopping({}) == EarlyStopping()


def test_slow_progress_counts_in_the_end_and_a_frozen_policy_is_waited_for():
    slow = dict(enumerate(scored(*range(40, 60))))
    assert max(early_stopping({s: slow[s] for s in range(last + 1)}).without for last in slow) <= 1  # a point a step is noise, two are not
    same = {step: scores for step, scores in zip((0, 5, 10, 15, 20), scored(40, 40, 40, 40, 40), strict=True)}
    assert early_stopping(same, frozen=10).without == 2


def test_noise_is_no_improvement():
    """Of an unchanged policy whose answers are right by chance, a sixth of the steps looks better by a standard error."""
    rng = random.Random(2)
    draw = lambda chance: [float(rng.random() < chance) for _ in range(256)]  # noqa: E731
    assert 0.1 < fmean(improves(draw(0.5), draw(0.5)) for _ in range(400)) < 0.22
    assert fmean(improves(draw(0.65), draw(0.5)) for _ in range(200)) > 0.95


@pytest.mark.parametrize(("now", "kept"), [("these", {0: [1.0], 10: [0.0]}), ("others", {}), ("", {})])
def test_scores_of_other_questions_are_forgotten(tmp_path, capsys, now, kept):
    history = EvaluationHistory(replace(shipped().eval, patience=1, validation=1), now, last_step=20)
    with Reporter("run", 20, monitor_config(tensorboard=False), tmp_path, {}) as reporter:
        coordinator = Coordinator(RecordedSteps(tmp_path), Selector(Objective(), 0), history, reporter, None, None, None)
        coordinator.take_up(RunState(step=10, seconds=1.0, validation={0: [1.0], 10: [0.0]}, validation_set="these"))
        assert history.validation == kept
        assert finish(coordinator.evaluate(step=10, version=0), lambda: None).end == bool(kept)
    assert ("other questions than before" in capsys.readouterr().out) == (not kept)
