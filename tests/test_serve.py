"""Engines started apart from the ranks: found through the run's folder, on two "hosts" here, gone when the run is over."""

import os
import subprocess

import pytest

from megatron_oreal import serve
from megatron_oreal.engines.registry import read_registry, registry_folder
from tests import runs

PLACED = ["rollout.placement=disaggregated", "rollout.engines=2", "rollout.ready_timeout_s=300"]


def start(module: str, overrides: list[str], **environment: str) -> subprocess.Popen:
    return runs.start("experiment=demo", "debug=fast", *PLACED, *overrides, module=module, env=os.environ | environment)


def test_a_run_finds_engines_of_other_hosts_and_samples_on_while_it_trains(task, tmp_path):
    """New weights come over disk: all of them once, to a copy on each host, then what changed."""
    run_dir = tmp_path / "run"
    overrides = [
        f"model.path={task / 'base'}",
        f"data.train={task / 'train.jsonl'}",
        f"run_dir={run_dir}",
        "schedule=continuous",
        "rollout.keep_cache=true",
        "rollout.max_new_tokens=150",
        "objective.keep=all",
        "steps=4",
        "rollout.bind=0.0.0.0",
        "rollout.sync=disk",
        f"rollout.sync_copy={tmp_path / 'copies'}",
    ]
    hosts = [start("megatron_oreal.serve", overrides, SLURM_PROCID=str(host), SLURM_NTASKS="2") for host in range(2)]
    try:
        run = start("megatron_oreal.train", overrides)
        output = runs.finish(run)
        assert run.returncode == 0, output
        for host in hosts:
            said, _ = host.communicate(timeout=60)
            assert host.returncode == 0, said
    finally:
        for host in hosts:
            host.kill()
    steps = runs.metrics_of(run_dir)
    assert [s["rollout/engines"] for s in steps] == [2] * 4
    assert [s["sync/full"] for s in steps if "sync/full" in s] == [0, 0, 0]  # the first publication is no step's
    assert len({engine.copy for engine in read_registry(registry_folder(run_dir)).values()}) == 2
    assert not list((tmp_path / "copies").iterdir())  # the room is given back
    assert len(read_registry(registry_folder(run_dir))) == 2
    assert all(s["select/questions"] == 8 and 8 <= s["rollout/unfinished"] <= 24 for s in steps)
    assert max(s["rollout/resumed_cached"] for s in steps) > 0.9
    assert 0 < max(s["rollout/age_max"] for s in steps) <= 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.placement=colocated", "rollout.placement is colocated, only disaggregated engines are started apart from the ranks"),
        ("rollout.engines=3", "rollout.engines=3 cannot be shared out evenly among 2 hosts"),
        ("seed=0", "rollout.bind=127.0.0.1 hides the engines of 2 hosts from rank 0; set rollout.bind=0.0.0.0"),
    ],
)
def test_what_cannot_work_is_one_line(monkeypatch, capsys, override, message):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    bind = [] if override == "seed=0" else ["rollout.bind=0.0.0.0"]
    assert serve.main(["experiment=demo", *PLACED, "model.path=m", "data.train=d", *bind, override]) == 2
    assert message in capsys.readouterr().err
