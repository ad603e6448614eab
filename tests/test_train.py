"""Whole runs in processes of their own: real ranks, a real server, real data; and the ways in which a run must end."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from transformers import AutoModelForCausalLM

from tests import runs
from tests.runs import ROOT, finish, metrics_of, wait_for, wait_until_gone

SHARED_DATA = ROOT.parent / "shared" / "data"


def start(run_dir: Path, *overrides: str, **options) -> subprocess.Popen:
    return runs.start("experiment=demo", "debug=fast", f"run_dir={run_dir}", *overrides, **options)


def wait_for_steps(process: subprocess.Popen, run_dir: Path, steps: int) -> None:
    """Return when the run has written this many steps."""
    wait_for(process, lambda: len(metrics_of(run_dir)) >= steps)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the data folder beside the checkout: real questions are not shipped")
@pytest.mark.parametrize(("data", "layout"), [("gsm8k_train_2000", "tp2"), pytest.param("math_train_2000", "pp2", marks=pytest.mark.slow)])
def test_two_steps_on_real_questions(task, tmp_path, data, layout):
    """Long prompts and LaTeX; keep=all, because the small model is never right and would have nothing to train on."""
    source = tmp_path / "questions.jsonl"
    longest_first = sorted((SHARED_DATA / f"{data}.jsonl").read_text().splitlines(), key=len)[-40:]
    source.write_text("\n".join(longest_first) + "\n")
    run = start(
        tmp_path / "run",
        f"parallel={layout}",
        f"model.path={task / 'base'}",
        f"data.train={source}",
        "steps=2",
        "data.questions_per_step=3",
        "rollout.max_total_tokens=900",
        "objective.keep=all",
    )
    output = finish(run)
    assert run.returncode == 0, output
    steps = metrics_of(tmp_path / "run")
    assert [s["step"] for s in steps] == [1, 2]
    assert all(s["loss/token_rm"] > 0 and s["select/questions"] == 3 for s in steps)
    assert steps[1]["policy/version"] == 1
    # Engine and trainer agree on what was sampled, at top_p 0.9: the engine's log-probabilities are those before top-p.
    assert 0 < steps[1]["logprob/diff_mean"] < 1e-4 and steps[1]["logprob/diff_max"] < 1e-3 and steps[1]["logprob/kl"] < 1e-6
    assert steps[1]["logprob/top_p_bias_bound"] == pytest.approx(0.10536, abs=1e-5)
    assert "data: 40 questions" in output
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "hf")


@pytest.fixture
def impossible(task, tmp_path):
    """Questions that nobody answers right: every iteration is skipped."""
    path = tmp_path / "impossible.jsonl"
    path.write_text("".join(json.dumps({"question": f"Say {i}.", "gold_answer": "\\text{unsayable}"}) + "\n" for i in range(8)))
    return [f"model.path={task / 'base'}", f"data.train={path}", "steps=1000", "data.questions_per_step=2"]


@pytest.mark.usefixtures("by_hand")
def test_skipped_iterations_are_logged_and_ctrl_c_leaves_no_process(impossible, tmp_path):
    run_dir = tmp_path / "run"
    run = start(run_dir, *impossible, start_new_session=True)
    wait_for_steps(run, run_dir, 3)
    family = psutil.Process(run.pid).children(recursive=True)
    assert sum("sglang" in " ".join(p.cmdline()) for p in family) >= 1
    os.killpg(run.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    output = finish(run)
    assert run.returncode == 130, output
    assert "Traceback" not in output
    wait_until_gone(family, 10)
    assert all(s["select/dropped_all_wrong"] == 2 and "loss/token_rm" not in s for s in metrics_of(run_dir))
    assert "skipped: no question had both" in output


@pytest.mark.usefixtures("by_hand")
def test_a_killed_rank_ends_the_job(impossible, tmp_path):
    run_dir = tmp_path / "run"
    run = start(run_dir, *impossible, "parallel.lost_after_s=8")
    wait_for_steps(run, run_dir, 1)
    family = psutil.Process(run.pid).children(recursive=True)
    (second,) = [p for p in family if p.environ().get("RANK") == "1"]
    killed_at = time.monotonic()
    second.kill()
    output = finish(run)
    assert time.monotonic() - killed_at < 60
    assert run.returncode not in (0, None), output
    assert "lost another rank" in output or "rank 1 was ended by signal 9" in output
    wait_until_gone(family, 10)


def test_a_server_that_does_not_come_up_shows_its_log(task, tmp_path):
    overrides = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", "+rollout.server_args.no-such-flag=1"]
    run = start(tmp_path / "run", *overrides)
    output = finish(run)
    assert run.returncode == 1, output
    assert "SGLang ended with status 2 before it was ready" in output
    assert "--no-such-flag" in output
