"""Runs that are killed, or asked to stop, go on as if nothing had happened: whole runs with real ranks and a real server."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from megatron_oreal.monitor.run_lock import NAME
from tests.runs import Run

STEPS = 4
SMALL = [  # keep=all, because a model with random weights is never right and would have nothing to train on
    f"steps={STEPS}",
    "checkpoint.interval=1",
    "checkpoint.hf_interval=2",
    "data.questions_per_step=3",
    "rollout.samples=4",
    "rollout.max_new_tokens=24",
    "rollout.deterministic=true",
    "rollout.concurrency=1",
    "objective.keep=all",
    "eval.interval=2",
    "eval.max_new_tokens=8",
    "policy.optimizer.eps=1e-3",  # Adam with 1e-8 makes rounding noise of a fresh model's tiny gradients visible in another layout
    "token_rm.optimizer.eps=1e-3",
]


SAVING = ["compute.offload=all", "rollout.release_memory=true", "policy.optimizer.on_host=true", "token_rm.optimizer.on_host=true"]
"""Engines and models give up their memory to each other, and optimizers are in the host's: the same numbers."""


def start(task: Path, run_dir: Path, *overrides: str) -> Run:
    given = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"eval.data={task / 'heldout.jsonl'}"]
    return Run(run_dir, "experiment=demo", "debug=fast", *given, *SMALL, *overrides)


def numbers(run: Run) -> dict[int, dict]:
    """Without what says that weights were published: engines that slept need them again also where nothing has changed."""
    return {step: {k: v for k, v in row.items() if k not in ("policy/version", "sync/attempts")} for step, row in run.metrics().items()}


@pytest.fixture(scope="module")
def unbroken(task, tmp_path_factory) -> Run:
    run = start(task, tmp_path_factory.mktemp("unbroken"))
    output = run.finish()
    assert run.process.returncode == 0, output
    metrics = run.metrics()
    assert sorted(metrics) == list(range(STEPS + 1))
    assert metrics[STEPS]["loss/total"] != metrics[STEPS - 1]["loss/total"]
    assert [run.weights(f"hf-step-0000{step}").keys() for step in (2, STEPS)] == [run.weights().keys()] * 2
    assert all(torch.equal(tensor, run.weights()[name]) for name, tensor in run.weights(f"hf-step-0000{STEPS}").items())
    return run


def test_killed_twice_while_saving_and_resumed_is_the_unbroken_run_bit_for_bit(unbroken, task, tmp_path):
    """Learning rates and the distance to the model it began with (loss/kl) too; and that one kept all its memory all the time."""
    checkpoints = tmp_path / "checkpoints"
    for step, resume in ((2, []), (3, ["resume=auto"])):
        run = start(task, tmp_path, *SAVING, *resume)
        run.wait_for((checkpoints / f".step-0000{step}.partial").exists)
        run.kill()
    assert [c.name for c in sorted(checkpoints.glob("step-*"))] == ["step-00001", "step-00002"]
    resumed = start(task, tmp_path, *SAVING, "resume=auto")
    output = resumed.finish()
    assert resumed.process.returncode == 0, output
    assert "resumed after step 2" in output and "what is given now counts" not in output
    assert all(unbroken.metrics()[step]["loss/kl"] > 0 and unbroken.metrics()[step]["lr/policy"] > 0 for step in (3, 4))
    assert numbers(resumed) == numbers(unbroken)
    expected = unbroken.weights()
    assert all((tensor == expected[name]).all() for name, tensor in resumed.weights().items())


def ask_the_launcher(run: Run) -> None:
    run.process.send_signal(signal.SIGUSR1)  # as Slurm does ahead of the time limit, to each task


def ask_everybody(run: Run) -> None:
    os.killpg(run.process.pid, signal.SIGTERM)


@pytest.mark.parametrize("ask", [ask_the_launcher, pytest.param(ask_everybody, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_and_ends_well_and_goes_on_in_another_layout(unbroken, task, tmp_path, ask):
    run = start(task, tmp_path, *SAVING)
    run.wait_for(lambda: run.steps_done >= 1)
    ask(run)
    output = run.finish()
    assert run.process.returncode == 0, output
    assert "as asked and saved; the same command with resume=auto goes on from there" in output
    assert 1 <= int(output.partition("stopped after step ")[2].split()[0]) < STEPS
    assert (tmp_path / "stopped").exists()  # which tells a stopped run from a finished one
    run = start(task, tmp_path, *SAVING, "resume=auto", "parallel=tp2")
    output = run.finish()
    assert run.process.returncode == 0, output
    assert not (tmp_path / "stopped").exists()
    metrics, expected = numbers(run), numbers(unbroken)
    assert sorted(metrics) == sorted(expected)
    for step, row in expected.items():
        assert metrics[step] == pytest.approx(row, rel=1e-4, abs=1e-6), step
    weights = run.weights()
    for name, tensor in unbroken.weights().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_second_start_where_a_run_is_at_work_is_refused_in_a_line_and_the_first_goes_on(task, tmp_path):
    first = start(task, tmp_path)
    first.wait_for((tmp_path / "checkpoints" / "step-00001").exists)
    second = start(task, tmp_path, "resume=auto")
    output = second.finish()
    holder = json.loads((tmp_path / NAME).read_text())["process"]
    assert second.process.returncode == 2 and output.count("\n") == 1 and f"is at work: process {holder} on " in output, output
    assert first.finish() and first.process.returncode == 0
    assert sorted(first.metrics()) == list(range(STEPS + 1))
