"""Memory that is given up between turns: the same run bit for bit, checkpoints of models at rest, and resident memory that drops."""

import hashlib
from dataclasses import replace

import psutil
import pytest
import torch

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.host_memory.resting import Resting, storages
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from megatron_oreal.model.platform import Platform
from megatron_oreal.run_state import RunState
from tests.learn.test_checkpoint import make_batch
from tests.settings import compute_config, tiny_run

LAST, SAVED = 4, (1, 2, 3)


def run_of(model: str, layout: dict, offload: str, run_dir: str, dtype: str) -> TrainConfig:
    run = tiny_run(model, layout, run_dir=run_dir, compute=compute_config(offload=offload))
    return replace(run, model=replace(run.model, dtype=dtype), policy=replace(run.policy, freeze_steps=2))


def train(run: TrainConfig, resume: str | None):
    """Steps up to the last with a checkpoint after some, two of which find a frozen policy; metrics, and a hash of all weights."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    checkpoints = Checkpoints(run.run_dir, run.checkpoint, learner, ranks, RunState)
    state = checkpoints.restore(resume)
    learner.rest_between_turns()
    metrics = {}
    for step in range(state.step + 1, LAST + 1):
        checkpoints.release()
        numbers = learner.train(make_batch(step), step).metrics
        metrics[step] = {k: v for k, v in numbers.items() if not k.startswith("time/")}
        if step in SAVED:
            checkpoints.save(RunState(step, step))
        checkpoints.poll()
    checkpoints.finish()
    digest = hashlib.sha256()
    for _, tensor in hf_weights.export(learner.policy.gpt, learner.models.dims):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    held = sum(storage.nbytes() for storage in storages(learner.token_rm._states()))
    ranks.stop()
    return metrics, digest.hexdigest(), held


LAYOUTS = {"dp2": {"dp": 2}, "tp2-pp2": {"tp": 2, "pp": 2, "sequence_parallel": True}}


CASES = [("dp2", "float32"), ("dp2", "bfloat16"), pytest.param("tp2-pp2", "float32", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("layout", "dtype"), CASES)
def test_with_and_without_it_is_the_same_run_and_one_resumes_the_other(ranks, tiny_model, tmp_path, layout, dtype):
    model, world = tiny_model(), 4 if layout == "tp2-pp2" else 2
    runs = {how: run_of(model, LAYOUTS[layout], how, str(tmp_path / how), dtype) for how in ("none", "gradients", "all")}
    ended = {how: ranks(world, train, run, None) for how, run in runs.items()}
    assert sorted(ended["none"][0][0]) == [1, 2, 3, 4]
    for how in ("gradients", "all"):
        assert [(m, d) for m, d, _ in ended[how]] == [(m, d) for m, d, _ in ended["none"]]
    assert all(held > 0 for _, _, held in ended["none"]) and all(held == 0 for _, _, held in ended["all"])
    for how, other in (("none", "all"), ("all", "none")):  # the checkpoint that the one wrote between turns
        resumed = ranks(world, train, replace(runs[how], run_dir=str(tmp_path / other)), "auto")
        assert [(m[LAST], d) for m, d, _ in resumed] == [(m[LAST], d) for m, d, _ in ended["none"]]


def test_memory_is_given_back_and_views_of_it_stay_what_they_are(tmp_path):
    def resident() -> int:
        return psutil.Process().memory_info().rss

    big, gradients = torch.arange(50_000_000, dtype=torch.float32), torch.ones(25_000_000)
    view, whole = big[1_000:2_000].view(10, 100), big.clone()
    first = torch.ones(100, dtype=torch.bfloat16)
    resting = Resting(storages([gradients]), storages([first, big, view]), Platform.detect(), tmp_path)
    assert resting.bytes == 256 + big.nbytes
    before = resident()
    resting.rest()
    assert before - resident() > 0.9 * (big.nbytes + gradients.nbytes)
    assert resting.copy_of(view).equal(whole[1_000:2_000].view(10, 100)) and resting.copy_of(whole) is whole
    resting.wake()
    assert big.equal(whole) and view.equal(whole[1_000:2_000].view(10, 100)) and len(gradients) == 25_000_000
    big.zero_()
    resting.rest(changed=False)
    resting.wake()
    assert view.equal(whole[1_000:2_000].view(10, 100)), "of a frozen model the first copy counts"
