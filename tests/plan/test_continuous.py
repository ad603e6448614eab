"""Continuous rollout as the plan simulates it: steps that can be worked out by hand, and those of the preset."""

from dataclasses import replace

import pytest

from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.engine import sampler
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.operations.continuous import Schedule, Tabled, simulated
from megatron_oreal.plan.operations.sampling import UNEVEN, Sampler
from megatron_oreal.plan.schedules import schedules
from megatron_oreal.plan.shapes import architecture_of


class Steady:
    """An engine whose every step takes a second, however much it decodes."""

    def decode_s(self, batch: int, context: float) -> float:
        return 1.0 / UNEVEN

    def prefill_s(self, length: int, prefix: int = 0) -> float:
        return 0.0


class Computing(Steady):
    """One that takes as long to compute a token anew as to decode it."""

    def prefill_s(self, length: int, prefix: int = 0) -> float:
        return length / UNEVEN


@pytest.mark.parametrize(
    "turns, training, expected",
    [
        (True, 3.0, 20 + 3 + 1),
        (False, 3.0, 20 + 1),  # four in flight of 40 tokens each, two a step: one ends every 10 s, trained on or not
        (False, 30.0, 30 + 1),  # training takes longer: what is finished waits for it
    ],
)
def test_a_step_that_can_be_worked_out_by_hand(turns, training, expected):
    engine = Sampler(Steady(), room=10**6, at_once=100, prompt=10, shared=1)
    found = simulated(engine, (40,) * 8, 1, Schedule(2, 4, 9, training, 1.0, turns))
    assert found.seconds == pytest.approx(expected, rel=0.03)


def test_what_is_cached_is_not_computed_anew_where_caches_are_kept():
    """Two answers of 128 tokens, one a step: at each publication the other has 64 tokens behind a prompt of 64."""
    engine = Sampler(Computing(), room=10**6, at_once=100, prompt=64, shared=1)
    anew, kept = (simulated(engine, (128,) * 8, 1, Schedule(1, 2, 9, 0.0, 0.0, True, keeps)).seconds for keeps in (False, True))
    assert kept == pytest.approx(64 + 64, rel=0.02)  # decodes, and computes the prompt of the next
    assert anew - kept > 64


def test_what_would_be_too_old_is_waited_for():
    engine = Sampler(Steady(), room=10**6, at_once=100, prompt=10, shared=1)
    lengths = (10,) * 3 + (200,)
    patient = simulated(engine, lengths, 1, Schedule(4, 8, 99, 0.0, 0.0, True))
    strict = simulated(engine, lengths, 1, Schedule(4, 8, 2, 0.0, 0.0, True))
    assert patient.oldest > 5 and strict.oldest <= 2 and strict.seconds > patient.seconds


def test_the_preset_is_faster_the_more_is_in_flight_and_its_cache_bounds_that():
    config = compose(["experiment=oreal_32b", "plan.tables=null"])
    plan = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False)
    exact, some, more = schedules(plan, (1.5, 3.0))
    assert exact.overrides == () and exact.seconds == plan.seconds
    assert exact.seconds > some.seconds > more.seconds and some.running < more.running and some.age < more.age
    arguments = config.rollout.server_args | {"max-total-tokens": 32768}
    small = make_plan(replace(config, rollout=replace(config.rollout, server_args=arguments)), plan.model, builds=False)
    assert schedules(small, (3.0,))[1].seconds > 1.5 * more.seconds
    _, anew, kept = schedules(plan, (3.0,), keeps=True)
    assert kept.overrides == (*anew.overrides, "rollout.keep_cache=true") and kept.seconds < anew.seconds
    whole = replace(config, compute=replace(config.compute, recompute="none"))  # training leaves no room for the cache
    assert len(schedules(make_plan(whole, plan.model, builds=False), (3.0,), keeps=True)) == 2


def test_interpolated_steps_are_those_of_the_operations():
    config = compose(["experiment=oreal_32b", "plan.tables=null"])
    plan = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False)
    served = sampler(config, plan.model.sizes, plan.engine).served
    for batch, context in [(1, 300.0), (21, 3333.3), (75, 5100.0), (200, 9000.0)]:
        assert Tabled(served).decode_s(batch, context) == pytest.approx(served.decode_s(batch, context), rel=0.03)
