"""No question of an epoch is lost to its slowness."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from megatron_oreal.coordinator.sampler import Sampler
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Prompt, Unfinished
from tests.settings import rollout_config, shipped


def sampler(oversample: float, tail: float = 0.0) -> Sampler:
    """Of two questions a step, from ten."""
    prompts = [Prompt(str(i), "q", "a", [i]) for i in range(10)]
    data = replace(shipped().data, questions_per_step=2)
    config = replace(shipped(), data=data, rollout=rollout_config(oversample=oversample, tail=tail))
    return Sampler(config, PromptSource(prompts, 5), None, None)


def cut(prompts: list[Prompt]) -> SimpleNamespace:
    """A rollout that ended without these."""
    return SimpleNamespace(unfinished=[Unfinished(prompt, []) for prompt in prompts])


@pytest.mark.parametrize("resumed", [False, True])
def test_questions_that_are_given_up_are_the_first_of_the_next_step(resumed):
    one = sampler(oversample=2.0)
    first = one.draw(1)
    one._leave(cut(first[2:]))
    if resumed:
        state, one = one.fill(RunState()), sampler(oversample=2.0)
        one.take_up(state)
    second = one.draw(2)
    assert len(first) == len(second) == 4 and second[:2] == first[2:]
    one._leave(cut([]))
    third = one.draw(3)
    assert len({prompt.token_ids[0] for prompt in first + second + third}) == 10 == len({p.id for p in first + second + third})


def test_what_the_tail_resumes_is_not_asked_twice():
    one = sampler(oversample=2.0, tail=0.5)
    first = one.draw(1)
    one._leave(cut(first[2:]))
    assert not {p.id for p in first[2:]} & {p.id for p in one.draw(2)} and one.fill(RunState()).unfinished


def test_a_run_that_asks_for_less_than_it_gave_up_asks_them_as_it_has_room():
    one = sampler(oversample=3.0)
    one._leave(cut(one.draw(1)[1:]))
    less = sampler(oversample=1.0)
    less.take_up(one.fill(RunState()))
    assert [len(less.draw(step)) for step in (2, 3)] == [2, 2] and len(less.fill(RunState()).again) == 1
