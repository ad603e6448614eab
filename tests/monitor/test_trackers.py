"""What trackers keep, read back with their own readers; and that none of them ends a run."""

import json
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_oreal import train
from megatron_oreal.launcher import free_port
from megatron_oreal.monitor import trackers
from megatron_oreal.monitor.config import MonitorConfig
from megatron_oreal.monitor.metrics import MetricsLog
from megatron_oreal.monitor.trackers import check_trackers, open_trackers
from tests.settings import mlflow_config, monitor_config, wandb_config

ROOT = Path(__file__).parents[2]
SETTINGS = {"seed": 3, "rollout": {"samples": 16}}


def write(config: MonitorConfig, run_dir: Path, steps: range, after: int | None = None, values: float = 0.0) -> list[str]:
    """What a process of a run writes that goes on after step `after`; returns the warnings."""
    said: list[str] = []
    with open_trackers(config, run_dir, SETTINGS, said.append, after, float(after or 0)) as log:
        for step in steps:
            log.write(step, {"loss/total": values + step, "reward/pass_rate": float("nan"), "odd@name": 1})
    return said


def rows(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").open(encoding="utf-8")]


def test_tensorboard_has_the_rows_and_forgets_those_that_are_done_again(tmp_path):
    assert write(monitor_config(), tmp_path, range(1, 6)) == []
    assert write(monitor_config(), tmp_path, range(4, 7), after=3, values=100) == []
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 104.0), (5, 105.0), (6, 106.0)]
    assert [(e.step, e.value) for e in reader.Scalars("loss/total")] == expected
    assert [(row["step"], row["loss/total"]) for row in rows(tmp_path)] == expected
    assert "reward/pass_rate" not in reader.Tags()["scalars"] and rows(tmp_path)[0]["reward/pass_rate"] is None
    write(monitor_config(), tmp_path, range(1, 3), values=200)  # another run in the same folder
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(e.step, e.value) for e in reader.Scalars("loss/total")] == [(1, 201.0), (2, 202.0)]
    write(monitor_config(tensorboard=False), tmp_path / "without", range(1))
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["metrics.jsonl"]


def test_wandb_offline_keeps_rows_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    config = monitor_config(tensorboard=False, wandb=wandb_config(project="project"))
    assert write(config, tmp_path, range(1, 3)) == []
    name = (tmp_path / "wandb.id").read_text().strip()
    time.sleep(1.1)  # the folder's name has the second of the start
    assert write(config, tmp_path, range(3, 5), after=2) == []
    assert (tmp_path / "wandb.id").read_text().strip() == name
    (first, second) = sorted((tmp_path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    deadline = time.monotonic() + 10  # its own process writes the files, and is not always done when it says so
    while not (b"samples" in first.read_bytes() and all(b"loss/total" in path.read_bytes() for path in (first, second))):
        assert time.monotonic() < deadline, [path.read_bytes() for path in (first, second)]
        time.sleep(0.1)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody is logged in there
    config = monitor_config(tensorboard=False, wandb=wandb_config(project="project", mode="online"))
    (warning,) = write(config, tmp_path / "online", range(1, 4))
    assert warning.startswith("warning: wandb: PermissionError: there is no API key: `wandb login`") and len(rows(tmp_path / "online")) == 3


def test_mlflow_keeps_rows_and_the_configuration_in_one_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    config = monitor_config(tensorboard=False, mlflow=mlflow_config(experiment="experiment"))
    assert write(config, tmp_path, range(1, 3)) == []
    assert write(config, tmp_path, range(3, 5), after=2) == []
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/total")] == [(n, float(n)) for n in range(1, 5)]
    assert run.data.params == {"seed": "3", "rollout.samples": "16"} and run.data.metrics["odd_name"] == 1
    assert run.info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = monitor_config(tensorboard=False, mlflow=mlflow_config(experiment="experiment", uri=f"http://127.0.0.1:{free_port()}"))
    (warning,) = write(away, tmp_path / "away", range(1, 4))
    assert warning.startswith("warning: mlflow: ") and len(rows(tmp_path / "away")) == 3


def test_a_tracker_that_cannot_write_is_warned_of_once_and_counted(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    said: list[str] = []
    with closing(open_trackers(monitor_config(), tmp_path, SETTINGS, said.append)) as log:
        for step in range(1, 4):
            log.write(step, {"loss/total": 1.0})
            time.sleep(0.3 if step > 1 else 3)  # importing TensorBoard takes a second or two
    (warning,) = said
    assert warning.startswith("warning: tensorboard: ") and warning.endswith("the run goes on, metrics.jsonl has everything")
    assert [row.get("monitor/failures/tensorboard", 0) for row in rows(tmp_path)] == [0, 1, 2]


FULL_DISK = """
import resource, signal, sys
from megatron_oreal.monitor.trackers import open_trackers
from tests.settings import monitor_config

with open_trackers(monitor_config(tensorboard=False), sys.argv[1], {}, print) as log:
    for step in range(1, 7):
        resource.setrlimit(resource.RLIMIT_FSIZE, (150 if 3 <= step <= 4 else resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        log.write(step, {"loss/total": 1.0, "note/padding": 0.123456789})
"""


def test_a_full_disk_delays_metrics_and_loses_none(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: metrics.jsonl: ") == 1 and done.stdout.count("\n") == 1
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [row.get("monitor/failures/metrics.jsonl", 0) for row in rows(tmp_path)] == [0, 0, 0, 1, 2, 2]


def test_training_does_not_wait_for_a_tracker_that_hangs(tmp_path, monkeypatch):
    released = threading.Event()

    class Hangs:
        def write(self, step, metrics):
            released.wait(20)

        def close(self, failed): ...

    monkeypatch.setattr(trackers, "MOST_WAITING", 2)
    monkeypatch.setattr(trackers, "CLOSES_WITHIN_S", 0.5)
    said: list[str] = []
    log = trackers.Trackers(MetricsLog(tmp_path), [trackers._TrackerThread("slow", Hangs, said.append)], said.append)
    started = time.monotonic()
    for step in range(1, 8):
        log.write(step, {"loss/total": 1.0})
        time.sleep(0.02)
    log.close()
    assert time.monotonic() - started < 5
    released.set()
    assert said[0].startswith("warning: slow: TimeoutError: 2 rows are waiting for it") and said[1].startswith("warning: slow: not done")
    assert len(said) == 2 and len(rows(tmp_path)) == 7
    assert rows(tmp_path)[-1]["monitor/failures/slow"] == 3


def test_a_missing_library_is_said_at_the_start(monkeypatch, capsys, tmp_path, tiny_model):
    find_spec = trackers.find_spec
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name in ("wandb", "mlflow") else find_spec(name))
    check_trackers(monitor_config())
    with pytest.raises(ValueError, match="monitor.mlflow.experiment=e: mlflow is not installed; pip install mlflow"):
        check_trackers(monitor_config(mlflow=mlflow_config(experiment="e")))
    given = [f"model.path={tiny_model(max_position_embeddings=20000)}", "data.train=D", f"run_dir={tmp_path}"]
    assert train.main([*given, "monitor.wandb.project=p"]) == 2
    assert "monitor.wandb.project=p: wandb is not installed; pip install wandb" in capsys.readouterr().err
