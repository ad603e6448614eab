"""Runs on several hosts: what their names resolve to, addresses of either kind, and a host that is cut off without a word."""

import json
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts import Hosts, why_none

LOST_AFTER_S = 10
ENDS_WITHIN_S = LOST_AFTER_S + 30
STARTS_WITHIN_S = 300
STAGES = (("rollout", []), *(pytest.param(stage, [], marks=pytest.mark.slow) for stage in ("policy", "sync", "checkpoint")))
pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(why_none()), reason=why_none())]


class TwoHosts:
    """A run with one rank and one engine a host; `overrides` come after those that keep it small."""

    def __init__(self, hosts: Hosts, task: Path, folder: Path, stage: str, master: str, *overrides: str):
        """`stage`: see slow_stage."""
        self.hosts, self.flag, self._logs = hosts, folder / "flag", [folder / f"h{n}.log" for n in (1, 2)]
        small = ["experiment=demo", "debug=fast", "parallel=dp2", "objective.keep=all", "checkpoint.interval=1", "rollout.engines=2"]
        inputs = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"eval.data={task / 'heldout.jsonl'}"]
        arguments = [stage, str(self.flag), *small, *inputs, f"run_dir={folder / 'run'}", *overrides]
        shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": master, "MASTER_PORT": "29500"}
        self._ranks = [
            hosts.start_module(rank + 1, "tests.slow_stage", arguments, self._logs[rank], RANK=str(rank), **shared) for rank in range(2)
        ]

    def wait(self, condition, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"still there: {self.hosts.processes()}, and said: {self.said}"
            time.sleep(0.1)

    @property
    def statuses(self) -> list[int | None]:
        return [rank.poll() for rank in self._ranks]

    @property
    def said(self) -> list[str]:
        """By each rank."""
        return [log.read_text() for log in self._logs]


@contextmanager
def running(task: Path, folder: Path, stage: str, master: str, *overrides: str, **options):
    with Hosts(2, **options) as hosts:
        yield TwoHosts(hosts, task, folder, stage, master, *overrides)


HALVES = ["parallel.dp=1", "parallel.pp=2", "rollout.sync=tensor"]
"""Of the model on each host: what the other one has comes over the link to be handed over."""


@pytest.mark.parametrize(("stage", "layout"), [*STAGES, pytest.param("sync", HALVES, marks=pytest.mark.slow)])
def test_both_sides_of_a_cut_end(task, tmp_path, stage, layout):
    """What is left after the bound is what hangs."""
    watched = ["rollout.bind=0.0.0.0", f"parallel.lost_after_s={LOST_AFTER_S}", *layout]
    with running(task, tmp_path, stage, "h1", *watched) as run:
        run.wait(lambda: run.flag.exists() or any(s is not None for s in run.statuses), STARTS_WITHIN_S)
        run.hosts.cut(2)
        run.wait(lambda: None not in run.statuses and not run.hosts.processes(), ENDS_WITHIN_S)  # who ends leaves its host first
        assert run.statuses == [1, 1]
        for rank, said in enumerate(run.said):
            lines = [line for line in said.splitlines() if line.startswith("error")]
            assert len(lines) == 1 and lines[0].startswith(f"error (rank {rank}): lost rank {1 - rank} in stage "), said
            assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("master", "bind"), [("h1", "0.0.0.0"), ("fd77::1", "::")])
def test_hosts_whose_names_mean_themselves_alone_find_each_other(task, tmp_path, master, bind):
    """As Debian and many images have it; and the first interface is one that leads nowhere."""
    with running(task, tmp_path, "none", master, f"rollout.bind={bind}", "steps=2", own_name_is="127.0.1.1", docker=True) as run:
        run.wait(lambda: None not in run.statuses or any(run.statuses), STARTS_WITHIN_S)
        assert run.statuses == [0, 0], run.said


def test_stages_on_different_hosts_hand_over_to_the_engines_on_both(task, tmp_path):
    """Each host has half of the layers: the other half crosses the link. Every publication is proven by checksum, or ends the run."""
    with running(task, tmp_path, "none", "h1", "rollout.bind=0.0.0.0", "steps=2", *HALVES) as run:
        run.wait(lambda: None not in run.statuses or any(run.statuses), STARTS_WITHIN_S)
        assert run.statuses == [0, 0], run.said
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open(encoding="utf-8")]
    published = [step for step in steps if "sync/attempts" in step]
    assert published and all(step["sync/attempts"] == 1 for step in published)
    assert {step["rollout/engines"] for step in steps if "rollout/engines" in step} == {2}


@pytest.mark.slow
def test_the_doctor_of_such_hosts_times_them_and_what_new_weights_would_take(task, tmp_path):
    shared = {"MASTER_ADDR": "h1", "MASTER_PORT": "29500", "SLURM_NTASKS": "2"}
    inputs = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    run = ["experiment=demo", "parallel=pp2", "rollout.sync=tensor", "rollout.engines=2", "rollout.bind=0.0.0.0", *inputs]
    command = [sys.executable, "tools/doctor.py", "--nodes", "h1,h2", "--slowest-allreduce", "0", "--ranks", "2", "--ranks-per-node", "1"]
    logs = [tmp_path / f"h{n}.log" for n in (1, 2)]
    with Hosts(2, own_name_is="127.0.1.1", docker=True, mbit=200) as hosts:
        nodes = [hosts.start(n + 1, *command, *run, log=logs[n], SLURM_PROCID=str(n), **shared) for n in range(2)]
        for node in nodes:
            node.wait(STARTS_WITHIN_S)
    lines = logs[0].read_text()
    pair, weights = re.search(r"1 pairs, slowest h1-h2: ([\d.]+) GB/s", lines), re.search(r"(\S+) GB cross .* (\S+) s at", lines)
    assert pair and weights, [log.read_text() for log in logs]
    assert 0.015 < float(pair[1]) < 0.025  # GB/s; 200 Mbit/s are 0.025
    half = sum(path.stat().st_size for path in (task / "base").glob("*.safetensors")) / 2e9
    assert float(weights[1]) == pytest.approx(half, rel=0.02) and float(weights[2]) == pytest.approx(half / float(pair[1]), rel=0.1)
