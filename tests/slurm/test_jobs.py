"""launch/slurm on a real Slurm: stopped runs are requeued and go on, failed ones end, name the node and leave nothing running."""

import time
from pathlib import Path

import psutil
import pytest

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.doctor.storage import sizes
from megatron_oreal.model.hf_files import read_config
from tests.slurm.job import Job, is_running

pytestmark = pytest.mark.slurm
ENDS_WITHIN_S = 120  # some 20 s until the other ranks miss one; TASKS_APART_S and KillWait until srun gives up a node that is silent


@pytest.fixture(scope="module")
def overrides(task) -> list[str]:
    """The demo in debug=fast with random weights: 4 ranks, more steps than a test waits for."""
    return [
        "experiment=demo",
        "debug=fast",
        "parallel=tp2",
        "parallel.dp=2",
        f"model.path={task / 'base'}",
        f"data.train={task / 'train.jsonl'}",
        "data.questions_per_step=6",
        "rollout.samples=4",
        "rollout.max_new_tokens=100",
        "rollout.concurrency=1",
        "rollout.bind=0.0.0.0",
        "objective.keep=all",  # a model with random weights is never right
        "checkpoint.interval=1",
        "steps=1000",
    ]


def test_a_colocated_run_is_stopped_ahead_of_the_time_limit_requeued_and_goes_on_to_its_end(cluster, overrides, tmp_path):
    job = Job(cluster, tmp_path, 2, *overrides, "rollout.engines=2")
    job.wait_for_step(1)
    minutes = int(job.facts()["RunTime"].split(":")[1]) + 4
    cluster.run("scontrol", "update", f"JobId={job.id}", f"TimeLimit={minutes}")  # less than four minutes are left: Slurm warns
    job.wait(lambda job: (job.run_dir / "stopped").exists())
    stopped_at = job.steps[-1]
    job.change(f"steps={stopped_at + 2}")
    job.wait(lambda job: job.facts()["Restarts"] == "1")
    cluster.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=30")
    assert job.end() == "COMPLETED", job.said
    assert job.steps == list(range(1, stopped_at + 3))
    assert "asked to stop: the run saves and ends" in job.said and "stopped as asked; requeued" in job.said
    assert f"resumed after step {stopped_at}" in job.said and "the run is finished" in job.said
    assert (job.run_dir / "summary.json").exists() and not (job.run_dir / "stopped").exists()
    assert "4 ranks: TP 2 x PP 1 x CP 1 x DP 2" in job.said
    assert "is one folder on 2 nodes [all 2 nodes]" in job.said
    logs = {path.parent.name for path in job.run_dir.glob("logs/*/ranks-*")}
    assert logs == {f"{job.id}.0", f"{job.id}.1"}
    check_sizes(overrides, job.run_dir)


def check_sizes(overrides: list[str], run_dir: Path) -> None:
    """A checkpoint and an export are as large as the preflight check thinks."""
    config = load(TrainConfig, "train", overrides)
    checkpoint, export = sizes(config, read_config(config.model.path))
    *_, last = sorted((run_dir / "checkpoints").glob("step-*"))
    assert sum(path.stat().st_size for path in last.rglob("*.distcp")) == pytest.approx(checkpoint, rel=0.1)
    assert sum(path.stat().st_size for path in (run_dir / "hf").glob("*.safetensors")) == pytest.approx(export, rel=0.1)


def test_a_disaggregated_run_is_signalled_requeued_and_ends_when_a_node_loses_its_step(cluster, overrides, tmp_path):
    job = Job(cluster, tmp_path, 3, *overrides, "rollout.placement=disaggregated", "rollout.engines=1")
    job.wait_for_step(1)
    (engines,) = job.processes("megatron_oreal.serve", "n3")
    cluster.run("scancel", "--signal=USR1", job.id)  # to all steps: the engines must not end before the ranks
    job.wait_for_requeue(1)
    stopped_at = job.steps[-1]
    assert not is_running(engines)
    job.wait_for_step(stopped_at + 1)
    assert f"resumed after step {stopped_at}" in job.said
    (engines,) = job.processes("megatron_oreal.serve", "n3")
    ranks = [rank for node in ("n1", "n2") for rank in job.processes("megatron_oreal.train", node)]
    assert len(ranks) == 4
    server = [child for child in engines.children(recursive=True) if "sglang" in " ".join(child.cmdline())]
    job.processes("megatron_oreal.train", "n2")[0].parent().kill()  # n2's slurmstepd
    killed_at = time.monotonic()
    assert job.end() == "FAILED", job.said
    assert time.monotonic() - killed_at < ENDS_WITHIN_S
    assert ("lost rank 2" in job.own_log or "lost rank 3" in job.own_log) and "node 1: n2, tasks 2-3" in job.own_log, job.said
    assert job.facts()["Restarts"] == "1"
    psutil.wait_procs([*ranks, engines, *server], timeout=60)
    assert server and not [process for process in (*ranks, engines, *server) if is_running(process)]


@pytest.mark.slow
def test_a_supervised_start_is_signalled_requeued_and_goes_on_to_its_end(cluster, task, tmp_path):
    given = [f"model.path={task / 'base'}", f"data.train={task / 'sft.jsonl'}", "optimizer.warmup_steps=1", "examples_per_step=4"]
    job = Job(cluster, tmp_path, 1, "experiment=demo_sft", *given, "steps=100000", script="sft_7b.sbatch")
    job.wait_for_step(1)
    cluster.run("scancel", "--signal=USR1", job.id)
    job.wait(lambda job: (job.run_dir / "stopped").exists())
    stopped_at = job.steps[-1]
    job.change(f"steps={stopped_at + 2}")
    assert job.end() == "COMPLETED", job.said
    assert job.facts()["Restarts"] == "1" and job.steps == list(range(1, stopped_at + 3))
    assert f"resumed after step {stopped_at}" in job.said and "16 for training, none for validation, none in test sets" in job.said
    assert (job.run_dir / "hf" / "model.safetensors").exists() and not (job.run_dir / "stopped").exists()


@pytest.mark.slow
def test_engines_that_are_killed_end_the_job_and_the_run_is_saved(cluster, overrides, tmp_path):
    job = Job(
        cluster,
        tmp_path,
        3,
        *overrides,
        "rollout.placement=disaggregated",
        "rollout.engines=1",
        "rollout.ready_timeout_s=120",
    )
    job.wait_for_step(1)
    job.processes("megatron_oreal.serve", "n3")[0].kill()
    assert job.end() == "FAILED", job.said
    assert "srun: error: n3: task 0: Killed" in job.said and "the engines' step ended with status 137" in job.said
    # Asked while it samples it stops at once; having missed them by itself it first waits rollout.ready_timeout_s for their return.
    assert "stopped after step" in job.said or "rollout: no engine is left" in job.said, job.said


def test_an_error_that_the_preflight_check_finds_ends_the_job_before_any_rank_starts(cluster, overrides, tmp_path):
    job = Job(cluster, tmp_path, 2, *overrides, "rollout.engines=3")
    assert job.end() == "FAILED", job.said
    assert "rollout.engines=3 cannot be shared out evenly among 2 hosts" in job.said
    assert job.facts()["ExitCode"] == "1:0" and not list(job.run_dir.glob("logs/*/ranks-*"))
