"""Moments in bfloat16: nearly the same training, half the bytes, checkpoints that runs with and without them share."""

from dataclasses import replace

import pytest
import torch

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn import megatron_cpu
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.config import STIFFEST
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from megatron_oreal.run_state import RunState
from tests.learn.test_checkpoint import make_batch
from tests.settings import compute_config, tiny_run

LAST, SAVED = 5, 3


def run_of(model: str, run_dir: str, moments: str, dp: int = 2, offload: str = "none") -> TrainConfig:
    run = tiny_run(model, {"dp": dp}, run_dir=run_dir, compute=compute_config(offload=offload))
    optimizer = replace(run.policy.optimizer, moments=moments, betas=(0.9, 0.95), clip_grad=0.05)
    return replace(
        run,
        model=replace(run.model, dtype="bfloat16"),
        policy=replace(run.policy, optimizer=optimizer),
        token_rm=replace(run.token_rm, optimizer=optimizer),
    )


def train(run: TrainConfig, resume: str | None = None) -> tuple[list[dict], dict, int]:
    """Losses of the steps, the policy's weights at the end, bytes that this rank's optimizer holds."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        checkpoints = Checkpoints(run.run_dir, run.checkpoint, learner, ranks, RunState)
        adam = learner.policy.optimizer.chained_optimizers[0].optimizer
        moments = [value for state in adam.state.values() for value in state.values()]
        state = checkpoints.restore(resume)
        assert all(value is kept for value, kept in zip(moments, (v for s in adam.state.values() for v in s.values()), strict=True))
        learner.rest_between_turns()
        metrics = []
        for step in range(state.step + 1, LAST + 1):
            checkpoints.release()
            metrics.append({k: v for k, v in learner.train(make_batch(step), step).metrics.items() if k.startswith("loss/")})
            if step == SAVED:
                checkpoints.save(RunState(step, step))
        checkpoints.finish()
        weights = {n: t.float().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}
        held = [*(p for group in adam.param_groups for p in group["params"]), *(v for state in adam.state.values() for v in state.values())]
        own = [tensor for tensor in held if tensor.dtype == torch.float32 or tensor._base is None]  # and not the model's weights
        return metrics, weights, sum(tensor.nbytes for tensor in own)


def test_they_train_alike_and_a_run_goes_on_from_its_checkpoint_bit_for_bit(ranks, tiny_model, tmp_path):
    model = tiny_model()
    plain, low = (run_of(model, str(tmp_path / moments), moments) for moments in ("float32", "bfloat16"))
    (expected, weights, of_plain), _ = ranks(2, train, plain)
    (metrics, got, of_low), _ = ranks(2, train, low)
    assert of_low * 12 == of_plain * 8
    assert metrics == [pytest.approx(step, rel=0.05, abs=2e-4) for step in expected] and metrics != expected
    assert 0 < max(abs(got[name] - weights[name]).max() for name in weights) < 4e-3  # of 1.7; rates up to 3e-3
    resumed, again, _ = ranks(2, train, low, "auto")[0]
    assert resumed == metrics[SAVED:] and all((again[name] == got[name]).all() for name in got)


@pytest.mark.parametrize(("dp", "offload"), [(1, "none"), (2, "all")])
def test_either_resumes_the_other_in_another_layout(ranks, tiny_model, tmp_path, dp, offload):
    model = tiny_model()
    for saved, loaded in (("float32", "bfloat16"), ("bfloat16", "float32")):
        run_dir = str(tmp_path / saved)
        (expected, weights, _), *_ = ranks(2, train, run_of(model, run_dir, saved))
        metrics, got, _ = ranks(dp, train, run_of(model, run_dir, loaded, dp, offload), "auto")[0]
        assert len(metrics) == LAST - SAVED and metrics == [pytest.approx(step, rel=0.05, abs=2e-4) for step in expected[SAVED:]]
        assert max(abs(got[name] - weights[name]).max() for name in weights) < 4e-3


@pytest.mark.parametrize(("beta", "falls"), [(0.95, True), (STIFFEST, True), (0.999, False)])
def test_the_largest_beta_allowed_lets_a_mean_fall_and_the_released_one_does_not(beta, falls):
    parameter = torch.zeros(64, dtype=torch.bfloat16)
    adam = megatron_cpu.CpuFusedAdam([parameter], 1e-3, (0.9, beta), master_weights=True, exp_avg_sq_dtype=torch.bfloat16)
    adam.initialize_state(parameter, False)
    squares = adam.state[parameter]["exp_avg_sq"].fill_(1.0)
    parameter.decoupled_grad = torch.full((64,), 0.1)
    for _ in range(3000):
        adam.step()
    assert bool((squares < 0.02).all()) == falls and (falls or bool((squares == 1).all()))
