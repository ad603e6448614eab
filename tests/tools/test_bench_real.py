"""The bench's own arithmetic, memory of a real tree of processes, and the bench itself on a small model."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.packing import Cost
from tools.process_tree import run_watched
from tools.real_figures import PARTS, Asked, Flops, Step, matmul_peak, mean_step, our_steps

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tools" / "bench_real.py"
MIB = 1 / 1024  # in GiB
SHARED_AND_OWN = """
import os, time
shared = bytearray(os.urandom(1 << 20)) * 96
if os.fork() == 0:
    own = bytearray(os.urandom(1 << 20)) * 48
    time.sleep(4)
    os._exit(0)
time.sleep(4)
print("done")
"""


def watched(code: str, tmp_path: Path, stage=lambda: "all", timeout_s: float = 60):
    return run_watched([sys.executable, "-c", code], tmp_path / "log", dict(os.environ), stage, tmp_path, timeout_s)


def bench(*words: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, (BENCH, *words))], capture_output=True, text=True, timeout=400, **options)


def test_memory_of_a_tree_counts_what_is_shared_once(tmp_path):
    held = watched(SHARED_AND_OWN, tmp_path)["all"].held
    assert len(held.processes) == 2
    assert (96 + 48) * MIB < held.total < (96 + 48 + 60) * MIB
    assert held.total == pytest.approx(sum(held.processes.values()))
    assert (tmp_path / "log").read_text() == "done\n"


def test_each_stage_has_its_own_peak_and_the_time_of_others_is_seen(tmp_path):
    mark = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'two').touch()"
    held = f"import time; a = bytearray(64 << 20); time.sleep(3); del a; {mark}; time.sleep(3)"
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        stages = watched(held, tmp_path, lambda: "two" if (tmp_path / "two").exists() else "one")
    finally:
        busy.kill()
        busy.wait()
    assert stages["one"].held.total - stages["two"].held.total == pytest.approx(64 * MIB, abs=8 * MIB)
    assert stages["one"].others > 0.2 and stages["two"].others > 0.2


def test_a_command_that_fails_or_takes_too_long_ends_with_all_that_it_started(tmp_path):
    with pytest.raises(RuntimeError, match="ended with status 3: no memory"):
        watched("print('one line'); print('no memory'); raise SystemExit(3)", tmp_path)
    started = "import subprocess, sys; p = subprocess.Popen(['sleep', '100'], start_new_session=True); print(p.pid, flush=True); p.wait()"
    with pytest.raises(RuntimeError, match="had not ended after 2 s"):
        watched(started, tmp_path, timeout_s=2)
    time.sleep(0.5)
    assert not psutil.pid_exists(int((tmp_path / "log").read_text()))


HF = SimpleNamespace(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=320,
)


def test_flops_are_those_of_a_step_on_trajectories_of_that_length():
    """Of 6 trajectories of 10 + 30 tokens: training by learn.flops on the trajectories themselves, sampling by hand."""
    asked = Asked(questions=2, samples=3, new_tokens=50, steps=2)
    tokens = {"response_tokens": 6 * 30.0, "trained_tokens": 6 * 40.0, "trained": 6.0}
    flops = Flops.of(Step(**dict.fromkeys(("step", "sampling", "reward", *PARTS), 1.0), **tokens), asked, HF)
    cost = StepCost.of(HF, Cost.of(HF, 16), token_rm=False, reference=True)
    trajectory = SimpleNamespace(length=40, response_ids=[0] * 30)
    assert flops.training == pytest.approx(cost.flops([trajectory] * 6, policy=True))
    weights = 2 * (64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128)
    computed = 2 * weights * (2 * 10 + 6 * 30)  # each prompt once
    attention = 2 * 2 * (4 * 16) * (6 * (40**2 - 10**2) + 2 * 10**2)  # two layers; 2 products of half of length x length, 2 FLOPs each
    assert flops.rollout == pytest.approx(computed + attention + 2 * 64 * 320 * 6 * 30)


def test_parts_and_rest_add_up_to_the_time_from_step_to_step():
    common = {
        "time/verify_tail": 0.5,
        "response/length_mean": 20,
        "verify/left_out": 1,
        "select/empty_responses": 0,
        "reward/pass_rate": 0.5,
    }
    parts = {"time/rollout": 4, "time/reference": 1, "time/policy": 2, "time/optimizer": 1, "perf/tokens_per_second": 60}
    rows = [
        common | parts | {"time/step": 8.5, "time/elapsed": 30},
        common | parts | {"time/sync": 1, "time/step": 9.5, "time/elapsed": 41},
    ]
    first, second = our_steps(rows, Asked(2, 4, 50, 2))
    assert (first.step, first.sync, first.rest) == (8.5, 0, 0.5)
    assert (second.step, second.sync, second.rest) == (11, 1, 2)
    assert (second.sampling, second.training, second.response_tokens, second.trained_tokens, second.trained) == (3.5, 4, 160, 240, 7)
    assert mean_step([first, second]).rest == 1.25


def test_the_peak_is_that_of_a_product():
    assert 1e9 < matmul_peak() < 1e14


def test_help_and_what_is_missing_are_said_in_a_line(task, tmp_path):
    told = bench("--help")
    assert told.returncode == 0 and "--trl-python" in told.stdout and "tools/bench_real.py --demo" in told.stdout
    model = ("--model", task / "base", "--questions", task / "train.jsonl")
    without = tmp_path / "python"  # an interpreter without packages
    without.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    without.chmod(0o755)
    for words, expected in (
        ((*model, "--trl-python", without), "has no TRL (ModuleNotFoundError: No module named 'trl'): pip install 'megatron-oreal[bench]'"),
        ((*model, "--trl-python", tmp_path / "nothing"), "No such file"),
        ((*model, "--only", "ours", "--questions-per-step", 100), "24 lines where 100 are wanted"),
    ):
        told = bench(*words)
        assert told.returncode == 1 and expected in told.stderr and len(told.stderr.splitlines()) == 1, told.stderr


@pytest.mark.slow
def test_both_sides_do_the_same_work_on_a_small_model(task, tmp_path):
    """TRL where it is installed, else ours alone."""
    only = ["ours", "trl"] if find_spec("trl") else ["ours"]
    sizes = ("--questions-per-step", 2, "--samples", 4, "--new-tokens", 8, "--trl-batch", 4)
    words = ("--demo", "--model", task / "base", "--questions", task / "train.jsonl", *sizes, "--only", *only)
    told = bench(*words, "--json", tmp_path / "found.json", "--out", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for side in found["sides"]:
        assert len(side["steps"]) == 3
        for step in side["steps"]:
            assert step["rest"] > -0.05 and 0 < step["sampling"] <= step["rollout"]
            assert step["trained"] <= 8 and step["response_tokens"] <= 8 * 8 < step["trained_tokens"]
        assert side["figures"]["memory in all, GiB"] >= side["figures"]["memory in the steps, GiB"] > 0.2
        assert side["name"] in told.stdout
    assert "the prompts differ" not in told.stdout
