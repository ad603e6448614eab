"""A run that was stopped and resumed gives what the unbroken run gives; damaged checkpoints are one clear line."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from megatron_oreal.config import TrainConfig
from megatron_oreal.evaluation.figures import Evaluation, Sampled
from megatron_oreal.evaluation.statistics import Estimate
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from megatron_oreal.monitor.saved import find_checkpoint, list_checkpoints
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Prompt, Sample, Span, TrainBatch, Trajectory, Unfinished
from tests.settings import optimizer, tiny_run

STEPS, SAVED_AT = 5, 3


def make_batch(step: int) -> TrainBatch:
    generator = torch.Generator().manual_seed(step)

    def sample(reward: int) -> Sample:
        tokens = torch.randint(1, 97, (20,), generator=generator).tolist()
        return Sample("q", tokens[:5], tokens[5:], reward, float(reward), 0.5, 0)

    return TrainBatch([sample(r) for r in (1, -1, 1, -1)])


def stand(step: int) -> RunState:
    """A state with everything in it: also what was sampled for the next step, or begun, and evaluations.

    The validation set finds step 2 the best, the test set step 1.
    """
    sampled = Sampled(4, Estimate(0.5, 0.4, 0.6), {2: Estimate(0.7, 0.6, 0.8)}, Estimate(0.5, 0.4, 0.6), 0.0, 0, 20.0, 20.0, 30.0)
    evaluations = {s: {"test": Evaluation(0.9 if s == 1 else 0.1 * s, 16, 0, 0.0, 0, 20.0, sampled=sampled)} for s in range(step + 1)}
    validation = {s: [1.0, 1.0 if s == 2 else 0.1 * s] for s in range(step + 1)}
    prompt = Prompt("p", "q", "a", [1, 2], 0.25)
    begun = Unfinished(prompt, [Trajectory(prompt, 0, [3], [-0.5], "x", "cut", step, [Span(step - 1, 1)])])
    noted = {"reward/mean": -0.5}
    return RunState(step, step, 7 * step, "ab", 3.5, evaluations, validation, "of these", make_batch(step + 1), [begun], noted)


def train(run: TrainConfig, run_dir: str, resume: str | None, last: int, save_at: tuple[int, ...] = ()):
    """Steps up to `last` (from a checkpoint), saving after some; metrics by step and this stage's final weights."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    checkpoints = Checkpoints(run_dir, run.checkpoint, learner, ranks, RunState)
    state = checkpoints.restore(resume)
    metrics = {}
    for step in range(state.step + 1, last + 1):
        checkpoints.release()
        numbers = learner.train(make_batch(step), step).metrics
        metrics[step] = {k: v for k, v in numbers.items() if not k.startswith("time/")}
        if step in save_at:
            checkpoints.save(stand(step))  # written until the next step trains
        checkpoints.poll()
    checkpoints.finish()
    weights = {n: t.clone().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}
    ranks.stop()
    return state, metrics, weights


@pytest.mark.parametrize(
    ("before", "after", "exact"),
    [
        ({"dp": 2}, {"dp": 2}, True),
        ({"tp": 2, "sequence_parallel": True}, {"pp": 2}, False),
        ({"pp": 2}, {"dp": 2}, False),
        ({"dp": 2}, {"pp": 2, "vpp": 2}, False),
        ({"pp": 2, "vpp": 2}, {"cp": 2}, False),
    ],
    ids=["same", "tp2-to-pp2", "pp2-to-dp2", "dp2-to-vpp2", "vpp2-to-cp2"],
)
def test_resumed_equals_unbroken(ranks, tiny_model, tmp_path, before, after, exact):
    model = tiny_model()
    unbroken = ranks(2, train, tiny_run(model, before), str(tmp_path), None, STEPS, (SAVED_AT,))
    resumed = ranks(2, train, tiny_run(model, after), str(tmp_path), "auto", STEPS)
    state, metrics, _ = resumed[0]
    assert state == stand(SAVED_AT)
    assert sorted(metrics) == [4, 5]
    whole = {n: w for result in unbroken for n, w in result[2].items()}
    for step in metrics:
        for name, value in metrics[step].items():
            expected = unbroken[0][1][step][name]
            assert value == expected if exact else value == pytest.approx(expected, rel=1e-4, abs=1e-6), (step, name)
    for _, _, weights in resumed:
        for name, value in weights.items():
            if exact:
                assert (value == whole[name]).all(), name
            else:
                torch.testing.assert_close(torch.from_numpy(value), torch.from_numpy(whole[name]), rtol=1e-4, atol=2e-5, msg=name)


def test_a_learning_rate_that_is_given_now_counts_from_now_on(ranks, tiny_model, tmp_path):
    """And so does the number of steps, to whose end it falls."""
    run = tiny_run(tiny_model(), {})
    ranks(1, train, run, str(tmp_path), None, 2, (2,))
    now = optimizer(lr=6e-3, eps=1e-4)
    other = replace(run, steps=9, policy=replace(run.policy, optimizer=now))
    _, metrics, _ = ranks(1, train, other, str(tmp_path), "auto", 5)[0]
    fallen = {step: (1 - math.cos(math.pi * (step - now.warmup_steps) / (9 - now.warmup_steps))) / 2 for step in metrics}
    for step in (3, 4, 5):
        assert metrics[step]["lr/policy"] == pytest.approx(now.lr - (now.lr - now.min_lr) * fallen[step], rel=1e-9)


def test_the_newest_and_the_best_are_kept_and_a_half_written_one_is_never_found(ranks, tiny_model, tmp_path):
    ranks(1, train, tiny_run(tiny_model(), {}), str(tmp_path), None, 5, (1, 2, 3, 4, 5))
    folder = tmp_path / "checkpoints"
    assert [c.name for c in list_checkpoints(folder)] == ["step-00002", "step-00004", "step-00005"]  # 2 is best
    shutil.copytree(folder / "step-00005", folder / ".step-00006.partial")
    shutil.rmtree(folder / "step-00005" / "policy")
    (folder / "step-00005" / "state.json").unlink()  # no state: a save that was killed before its end
    assert find_checkpoint(folder, "auto").name == "step-00004"
    with pytest.raises(ValueError, match="step-00005 is no whole checkpoint"):
        find_checkpoint(folder, str(folder / "step-00005"))
    with pytest.raises(ValueError, match="holds a run that came to step-00004; resume=auto, or take another run_dir"):
        find_checkpoint(folder, None)
    assert find_checkpoint(tmp_path / "nothing", "auto") is None


def test_a_damaged_or_foreign_checkpoint_is_one_line_that_offers_the_one_before(ranks, tiny_model, tmp_path):
    run = tiny_run(tiny_model(), {})
    ranks(1, train, run, str(tmp_path), None, 3, (2, 3))
    with pytest.raises(AssertionError, match=r"\n  ValueError: resume: .*step-00003 cannot be loaded .*; try resume=.*step-00002"):
        ranks(1, train, tiny_run(tiny_model(intermediate_size=48), {}), str(tmp_path), "auto", 3)
    newest = tmp_path / "checkpoints" / "step-00003" / "policy"
    victim = max(newest.glob("*.distcp"), key=lambda p: p.stat().st_size)
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(AssertionError, match=r"\n  ValueError: resume: .*step-00003 cannot be loaded .*; try resume=.*step-00002"):
        ranks(1, train, run, str(tmp_path), "auto", 3)
    state, _, _ = ranks(1, train, run, str(tmp_path), str(tmp_path / "checkpoints" / "step-00002"), 3)[0]
    assert state.step == 2
    assert sorted(c.name for c in (tmp_path / "checkpoints").iterdir()) == ["abandoned-step-00003", "step-00002"]
