"""Whole runs whose engines die: a restarted one gets the current weights and finishes the step; where none comes back the run is saved."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megatron_oreal.engines.registry import read_registry, registry_folder
from megatron_oreal.engines.server import Server
from tests import runs
from tests.runs import RUN_DEADLINE_S, metrics_of
from tests.settings import process_group_of, rollout_config

SMALL = [
    "experiment=demo",
    "debug=fast",
    "data.questions_per_step=12",
    "rollout.samples=8",
    "rollout.concurrency=2",
    "rollout.max_new_tokens=160",
    "rollout.health_interval_s=0.5",
    "rollout.lost_after_s=8",
    "objective.keep=all",  # a model with random weights is never right
    "eval.max_new_tokens=8",
    "checkpoint.interval=100",  # but for the one that is asked for
]


def start(task: Path, run_dir: Path, *overrides: str) -> subprocess.Popen:
    return runs.start(*SMALL, f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"run_dir={run_dir}", *overrides)


def wait_for_step(run: subprocess.Popen, run_dir: Path, step: int) -> None:
    deadline = time.monotonic() + RUN_DEADLINE_S
    while not any(row["step"] == step for row in metrics_of(run_dir)):
        assert run.poll() is None, f"the run ended with {run.returncode}:\n{run.stdout.read()}"
        assert time.monotonic() < deadline, "the run took too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_only_engine_killed_in_mid_rollout_gets_the_current_weights_and_finishes(task, tmp_path):
    """The weights that the policy had learnt by then were nowhere but in the ranks."""
    run = start(task, tmp_path, "parallel=pp2", "rollout.ready_timeout_s=240")
    wait_for_step(run, tmp_path, 2)  # the policy is at version 1 now
    time.sleep(1.0)  # in the middle of step 3's rollout
    (engine,) = read_registry(registry_folder(tmp_path)).values()
    os.killpg(process_group_of(engine.endpoint), signal.SIGKILL)
    output = runs.finish(run)
    assert run.returncode == 0, output
    steps = {row["step"]: row for row in metrics_of(tmp_path)}
    assert sorted(steps) == [1, 2, 3, 4]
    hit = next(row for row in steps.values() if row["rollout/engines_lost"])
    assert hit["rollout/engines_rejoined"] == 1 and hit["rollout/moved"] >= 8
    assert hit["policy/version"] in (1, 2)
    assert sum(row["rollout/engines_lost"] for row in steps.values()) == 1
    (engine,) = read_registry(registry_folder(tmp_path)).values()
    assert engine.start == 1


@pytest.mark.slow
@pytest.mark.parametrize(("delay", "keeps"), [(0.0, "false"), (0.7, "false"), (1.4, "false"), (0.4, "true"), (1.0, "true")])
def test_an_engine_killed_at_any_moment_of_a_continuous_run_in_which_all_take_turns(task, tmp_path, delay, keeps):
    """Two engines, one rank: it may be sampling for the next step, evaluating, asleep, or getting weights."""
    turns = ["schedule=continuous", "compute.offload=all", "rollout.release_memory=true", f"eval.data={task / 'heldout.jsonl'}"]
    turns.append(f"rollout.keep_cache={keeps}")
    run = start(task, tmp_path, *turns, "rollout.engines=2", "rollout.ready_timeout_s=240", "steps=8", "eval.interval=1")
    wait_for_step(run, tmp_path, 2)
    time.sleep(delay)
    os.killpg(process_group_of(next(iter(read_registry(registry_folder(tmp_path)).values())).endpoint), signal.SIGKILL)
    output = runs.finish(run)
    assert run.returncode == 0, output
    steps = [row for row in metrics_of(tmp_path) if row["step"]]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert sum(row["rollout/engines_lost"] for row in steps) == 1
    assert all(row["select/questions"] >= 12 for row in steps)
    found = [row["rollout/resumed_cached"] for row in steps[1:]]
    assert max(found) > 0.9 if keeps == "true" else max(found) < 0.5


def test_a_run_without_engines_is_saved_and_says_so_and_goes_on_later(task, tmp_path):
    settings = rollout_config(max_new_tokens=64, max_total_tokens=256, ready_timeout_s=300)
    run_dir, key = tmp_path / "run", tmp_path / "key"

    def external(server: Server) -> list[str]:
        server.wait_ready()
        key.write_text(server.endpoint.key)
        return ["rollout.placement=external", f"rollout.urls=[{server.endpoint.url}]", f"rollout.admin_key_file={key}"]

    with Server(settings, str(task / "base"), "float32", tmp_path) as server:
        run = start(task, run_dir, "parallel=dp2", "rollout.ready_timeout_s=10", *external(server))
        wait_for_step(run, run_dir, 2)
        time.sleep(1.0)
        server.kill()
        output = runs.finish(run)
    assert run.returncode == 1, output
    errors = [line for line in output.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "rollout: no engine is left (http" in errors[0] and "resume=auto" in errors[0], output
    assert "Traceback" not in output
    before = metrics_of(run_dir)
    assert (run_dir / "checkpoints" / f"step-{before[-1]['step']:05d}").is_dir()
    with Server(settings, str(task / "base"), "float32", tmp_path, start=1) as server:
        run = start(task, run_dir, "parallel=dp2", "resume=auto", *external(server))
        output = runs.finish(run)
    assert run.returncode == 0, output
    assert f"resumed after step {before[-1]['step']}" in output
    assert [row["step"] for row in metrics_of(run_dir)] == [1, 2, 3, 4]
    assert metrics_of(run_dir)[: len(before)] == before
