"""Optimizers in host memory: the same run bit for bit, also with all else at rest between turns, and checkpoints that either resumes."""

from dataclasses import replace

import pytest

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.host_memory.adam import STATES, HostAdam
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.plan.memory import HOST_ADAM_BYTES
from tests.learn.test_checkpoint import make_batch
from tests.learn.test_resting import LAST, LAYOUTS, SAVED, run_of, train


def of(run: TrainConfig, on_host: bool) -> TrainConfig:
    """Policy and token RM, whose messages overlap; every step is clipped, which is done where the gradients are."""
    run = replace(run, learn=replace(run.learn, overlap_grad_reduce=True, overlap_param_gather=True))
    policy, token_rm = (replace(one.optimizer, on_host=on_host, clip_grad=0.01) for one in (run.policy, run.token_rm))
    return replace(run, policy=replace(run.policy, optimizer=policy), token_rm=replace(run.token_rm, optimizer=token_rm))


RANKS = {"alone": 1, "dp2": 2, "tp2-pp2": 4}
CASES = [
    ("alone", "bfloat16", "all"),
    pytest.param("alone", "float32", "none", marks=pytest.mark.slow),
    pytest.param("dp2", "bfloat16", "all", marks=pytest.mark.slow),
    pytest.param("tp2-pp2", "float32", "gradients", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("layout", "dtype", "offload"), CASES)
def test_on_the_host_it_is_the_same_run_and_either_resumes_the_other(ranks, tiny_model, tmp_path, layout, dtype, offload):
    model, world, parallel = tiny_model(), RANKS[layout], LAYOUTS.get(layout, {})
    plain = of(run_of(model, parallel, "none", str(tmp_path / "plain"), dtype), on_host=False)
    host = of(run_of(model, parallel, offload, str(tmp_path / "host"), dtype), on_host=True)
    expected, got = ([(m, d) for m, d, _ in ranks(world, train, run, None)] for run in (plain, host))
    assert got == expected and SAVED[-1] == LAST - 1
    assert all(expected[0][0][step]["grad_norm/policy"] > 0.01 for step in (3, 4))
    for run, other in ((plain, host), (host, plain), (host, host)):
        resumed = ranks(world, train, replace(run, run_dir=other.run_dir), "auto")
        assert [(m[LAST], d) for m, d, _ in resumed] == [(m[LAST], d) for m, d in expected]


def copies(run: TrainConfig) -> list[tuple[int, bool, bool, bool]]:
    """After some steps, of each parameter: its steps, whether its host weights are the model's and lie apart, and whether moments came."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        for step in (1, 2, 3):
            learner.train(make_batch(step), step)
        (one,) = learner.token_rm.optimizer.chained_optimizers
        assert isinstance(one.optimizer, HostAdam)
        found = []
        for group in one.optimizer.param_groups:
            for p in group["params"]:
                held = one.optimizer.state[p]
                apart = len({held[name].data_ptr() for name in STATES} | {p.data_ptr()}) == 4
                assert sum(held[name].nbytes for name in STATES) == HOST_ADAM_BYTES * p.numel()
                found.append((group["step"], held["master_param"].to(p.dtype).equal(p), apart, bool(held["exp_avg"].any())))
        return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_the_host_holds_is_a_copy_that_every_step_counts_for(ranks, tiny_model, tmp_path, dtype):
    (found,) = ranks(1, copies, of(run_of(tiny_model(), {}, "none", str(tmp_path), dtype), on_host=True))
    assert len(found) > 10 and {f[:3] for f in found} == {(3, True, True)} and sum(f[3] for f in found) > 10
