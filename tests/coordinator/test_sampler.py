"""Continuous sampling: a step gets the first questions that are finished; no question is lost, none comes twice, none too old."""

import time
from dataclasses import replace

import pytest
import torch

from megatron_oreal.coordinator.sampler import Enough, Sampler
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Group, Prompt, Span, TrainBatch, Trajectory, Verdict, finish, first_version
from megatron_oreal.verify import Verifier
from tests.settings import rollout_config, shipped

NEEDED, SAMPLES, MAX_AGE = 3, 4, 2


@pytest.fixture
def sampler(engines, served_model):
    """Makes one of three questions a step, from ten, and six under way; all are closed afterwards."""
    generator = torch.Generator().manual_seed(2)
    prompts = [Prompt(str(i), "q", "7", torch.randint(3, 500, (5,), generator=generator).tolist()) for i in range(10)]
    verifier, made = Verifier(shipped().verify), []

    def make(placement: str, in_flight: float = 2.0) -> Sampler:
        config = rollout_config(
            samples=SAMPLES, top_p=1.0, max_new_tokens=100, max_total_tokens=120, in_flight=in_flight, max_age=MAX_AGE, placement=placement
        )
        run = replace(shipped(), data=replace(shipped().data, questions_per_step=NEEDED), rollout=config, steps=20)
        made.append(Sampler(run, PromptSource(prompts, 5), Rollout(config, engines, load_tokenizer(served_model)), verifier))
        return made[-1]

    with verifier:
        yield make
        for one in made:
            one.close()


@pytest.fixture
def publish(server):
    """New weights (here the same ones) are in the engine at this version."""
    yield lambda version: server.endpoint.post("/update_weight_version", {"new_version": str(version), "abort_all_requests": False})
    server.endpoint.post("/update_weight_version", {"new_version": "default", "abort_all_requests": False})


def one_step(sampler: Sampler, step: int) -> list[Group]:
    """As the driver goes through it, without training."""
    sampling = sampler.rollout(sampler.draw(step), step)
    return finish(sampler.verify(sampling), lambda: pytest.fail("no engine"))


def steps(sampler: Sampler, numbers: range, publish, trains_s: float = 0.1) -> list[list[Group]]:
    """Those; the weights of each have its number as version."""
    taken = []
    for step in numbers:
        taken.append(one_step(sampler, step))
        time.sleep(trains_s)
        sampler.quiet()
        publish(step + 1)
        sampler.go_on(step + 1)
    return taken


@pytest.mark.parametrize("placement", ["colocated", "disaggregated"])
def test_every_question_that_is_drawn_comes_to_one_step_though_the_run_is_killed(sampler, publish, placement):
    publish(1)
    first = sampler(placement)
    taken = steps(first, range(1, 4), publish)
    saved = first.fill(RunState(step=3))
    steps(first, range(4, 6), publish)  # lost: nothing of it was saved
    first.close()
    publish(4)
    second = sampler(placement)
    second.take_up(saved)
    taken += steps(second, range(4, 9), publish)
    second.quiet()
    left = second.fill(RunState())
    names = [group.prompt.id for groups in taken for group in groups]
    draws = sorted(int(name.partition("#")[2]) for name in [*names, *(one.prompt.id for one in left.unfinished)])
    assert draws == list(range(left.drawn)) and all(len(groups) >= NEEDED for groups in taken)  # more where more are due
    assert len(left.unfinished) <= 3 * NEEDED
    ages = []
    for step, groups in enumerate(taken, start=1):
        for group in groups:
            assert [t.index for t in group.trajectories] == list(range(SAMPLES)) and all(len(t.token_ids) for t in group.trajectories)
            assert all(t.finish != "cut" and len(t.logprobs) == len(t.token_ids) for t in group.trajectories)
            assert all(sum(s.tokens for s in t.earlier) < len(t.token_ids) for t in group.trajectories if t.earlier)
            ages.append(step - first_version(group.trajectories))
    assert 0 < max(ages) <= MAX_AGE


def test_with_one_step_in_flight_a_step_is_asked_when_its_weights_are_there_and_by_no_others(sampler, publish):
    one, drawn = sampler("colocated", in_flight=1.0), []
    for step in (1, 2, 3):
        publish(step)
        one.go_on(step)
        if step == 2:  # its weights are published anew: what was sampled by then would be of two versions
            time.sleep(0.3)
            one.quiet()
            state = one.fill(RunState(step=step - 1))
            assert len(state.unfinished) == NEEDED and not any(open_one.trajectories for open_one in state.unfinished)
            one = sampler("colocated", in_flight=1.0)  # and a run that goes on asks the same questions
            one.take_up(state)
            one.go_on(step)
        prompts = one.draw(step)
        groups = finish(one.verify(one.rollout(prompts, step)), lambda: pytest.fail("no engine"))
        assert not prompts and len(groups) == NEEDED, "they were drawn when sampling began"
        assert not one.fill(RunState()).unfinished and all(not t.earlier and t.version == step for g in groups for t in g.trajectories)
        drawn += [group.prompt.id for group in groups]
        one.quiet()
    assert sorted(int(name.partition("#")[2]) for name in drawn) == list(range(3 * NEEDED))


def test_a_step_that_was_sampled_before_the_run_was_stopped_is_trained_before_the_next_is_asked(sampler, publish):
    one = sampler("colocated", in_flight=1.0)
    one.take_up(RunState(step=1, drawn=2 * NEEDED, pending=TrainBatch()))
    one.go_on(1)
    assert one.fill(RunState()).drawn == 2 * NEEDED
    one.go_on(2)
    assert one.fill(RunState()).drawn == 3 * NEEDED


def group(name: str) -> Group:
    return Group(Prompt(name, "q", "a", [1]), [], [Verdict(True, "")])


def test_what_is_due_is_waited_for_and_comes_first():
    stopped = []
    enough = Enough(2, {"old"}, lambda: stopped.append(1))
    for name in ("a", "b", "c"):
        enough.note(group(name))
        assert not stopped and not enough.chosen
    enough.note(group("old"))
    enough.note(group("d"))
    assert stopped == [1] and enough.chosen == {"old", "a"}


def test_more_that_are_due_than_make_a_step_are_one_all_the_same():
    enough = Enough(1, {"x", "y"}, lambda: None)
    for name in ("a", "x", "y"):
        enough.note(group(name))
    assert enough.chosen == {"x", "y"}


def test_the_version_of_a_question_is_that_of_its_first_token():
    prompt = Prompt("p", "q", "a", [1])
    late = Trajectory(prompt, 0, [1, 2], [0.0, 0.0], "", "stop", 5)
    early = replace(late, index=1, earlier=[Span(3, 1)])
    unbegun = replace(late, index=2, token_ids=[], logprobs=[], version=1)
    assert first_version([late, early, unbegun]) == 3 and first_version([unbegun]) is None
