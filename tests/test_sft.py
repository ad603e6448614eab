"""Supervised starts as whole runs: killed, asked to stop, taken up again, evaluated, exported."""

import json
import math
import signal
from pathlib import Path

import pytest
import torch

from megatron_oreal.monitor.run_lock import NAME
from tests.runs import Run

STEPS, WARMUP, LR, MIN_LR = 8, 3, 4e-3, 4e-4


def start(task: Path, run_dir: Path, *overrides: str) -> Run:
    given = [f"model.path={task / 'base'}", f"data.train={task / 'sft.jsonl'}", f"steps={STEPS}", f"optimizer.warmup_steps={WARMUP}"]
    rates = [f"optimizer.lr={LR}", f"optimizer.min_lr={MIN_LR}"]
    small = ["examples_per_step=6", "checkpoint.interval=1", "checkpoint.hf_interval=4"]
    return Run(run_dir, "experiment=demo_sft", *given, *rates, *small, *overrides, module="megatron_oreal.sft")


def finished(run: Run) -> str:
    output = run.finish()
    assert run.process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def unbroken(task, tmp_path_factory) -> Run:
    run = start(task, tmp_path_factory.mktemp("unbroken"))
    finished(run)
    return run


def test_the_learning_rate_of_each_step_is_the_schedules(unbroken):
    """A linear warm-up to lr, then half a cosine to min_lr at the last step."""
    rates = {step: row["lr/policy"] for step, row in unbroken.metrics().items()}
    assert sorted(rates) == list(range(1, STEPS + 1))
    for step, rate in rates.items():
        done = (step - WARMUP) / (STEPS - WARMUP)
        decayed = MIN_LR + (LR - MIN_LR) * (1 + math.cos(math.pi * done)) / 2
        assert rate == pytest.approx(LR * step / WARMUP if step <= WARMUP else decayed, rel=1e-6), step
    assert rates[WARMUP] == pytest.approx(LR) and rates[STEPS] == pytest.approx(MIN_LR)


def test_killed_stopped_and_resumed_it_is_the_unbroken_run_bit_for_bit(unbroken, task, tmp_path):
    run, checkpoints = start(task, tmp_path), tmp_path / "checkpoints"
    run.wait_for((checkpoints / ".step-00003.partial").exists)
    run.kill()
    assert (tmp_path / NAME).exists()  # left by the dead run, which is no hindrance
    run = start(task, tmp_path, "resume=auto")
    run.wait_for(lambda: run.steps_done >= 4)
    run.process.send_signal(signal.SIGUSR1)
    output = finished(run)
    assert "resumed after step 2" in output and "as asked and saved; the same command with resume=auto goes on from there" in output
    assert (tmp_path / "stopped").exists() and not (tmp_path / "hf").exists()
    assert "resumed after step" in finished(start(task, tmp_path, "resume=auto")) and not (tmp_path / "stopped").exists()
    assert run.metrics() == unbroken.metrics()
    for folder in ("hf", "hf-step-00004", "hf-step-00008"):
        weights, expected = run.weights(folder), unbroken.weights(folder)
        assert weights.keys() == expected.keys() and expected, folder
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items()), folder
    assert [c.name for c in sorted(checkpoints.glob("step-*"))] == ["step-00007", "step-00008"]
    again = start(task, tmp_path)
    assert "holds a run that came to step-00008; resume=auto, or take another run_dir" in again.finish() and again.process.returncode == 2


def test_it_is_evaluated_on_the_way_on_a_test_set_and_on_questions_held_out(task, tmp_path):
    rows = [json.loads(line) for line in (task / "sft.jsonl").open(encoding="utf-8")]
    data = tmp_path / "sft.jsonl"
    data.write_text("".join(json.dumps(row | {"gold_answer": "7"}) + "\n" for row in rows))
    sets = [f"eval.data={task / 'heldout.jsonl'}", "eval.validation=3", "eval.interval=5", "eval.max_new_tokens=8"]
    run = start(task, tmp_path / "run", f"data.train={data}", *sets, "checkpoint.interval=100", "parallel=auto", "parallel.dp=1")
    output = finished(run)
    rows = run.metrics()
    assert [step for step, row in rows.items() if "eval/heldout/pass_at_1" in row and "eval/validation/score" in row] == [0, 5, STEPS]
    assert [step for step, row in rows.items() if "policy/version" in row] == [5, STEPS] and rows[STEPS]["policy/version"] == STEPS
    assert "16 examples, 3 of them held out for validation" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["evaluated"] == "heldout" and summary["problems_evaluated"] == 16 and summary["steps"] == STEPS
    assert summary["best_step"] in (0, 5, STEPS) and not summary["stopped_early"]
