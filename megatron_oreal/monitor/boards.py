"""TensorBoard, Weights & Biases and MLflow. Each imports its library when it is opened, and not before."""

import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megatron_oreal.monitor.config import MLflowConfig, WandbConfig

MLFLOW_BATCH = 100  # params of one call: the REST API's limit (of metrics it is 1000)
MLFLOW_VALUE = 500  # characters of a param that every store takes


class Tracker(Protocol):
    """Is told the metrics of one step after the other; may raise anything."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self, failed: bool) -> None:
        """`failed`: the run ends with an error."""
        ...


class TensorBoard:
    """Event files in <run_dir>/tensorboard, readable after each step."""

    def __init__(self, run_dir: Path, after_step: int | None):
        """Steps beyond `after_step` that an earlier process wrote are done again: readers are told to forget them."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=0 if after_step is None else after_step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases (seen with 0.31). Steps that are done again after a resume stand there twice, with their `step`."""

    def __init__(self, config: WandbConfig, run_dir: Path, settings: dict, after_step: int | None):
        import wandb

        if config.mode == "online" and not wandb.login(prompt=False):  # else it would ask for a key in the middle of the progress bars
            raise PermissionError("there is no API key: `wandb login`, or WANDB_API_KEY")
        kept = _Kept(run_dir / "wandb.id")
        known = kept.read() if after_step is not None else None
        self._run = wandb.init(
            project=config.project,
            name=run_dir.name,
            id=known or secrets.token_hex(4),
            resume="allow",
            mode=config.mode,
            dir=str(run_dir),
            config=settings,
            settings=wandb.Settings(console="off", silent=True),  # the console is ours
        )
        kept.write(self._run.id)
        self._run.define_metric("*", step_metric="step")  # wandb's own step only rises: it would refuse the steps done again

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of an MLflow experiment (seen with 3.17)."""

    def __init__(self, config: MLflowConfig, run_dir: Path, settings: dict, after_step: int | None):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
        self._metric = Metric
        self._client = MlflowClient(tracking_uri=config.uri or f"sqlite:///{(run_dir / 'mlflow.db').resolve()}")
        kept = _Kept(run_dir / "mlflow.id")
        known = kept.read() if after_step is not None else None
        self._run = known or self._client.create_run(self._experiment(config.experiment), run_name=run_dir.name).info.run_id
        if known:
            self._client.update_run(known, status="RUNNING")
            return
        kept.write(self._run)
        params = [Param(name, value[:MLFLOW_VALUE]) for name, value in flat(settings).items()]
        for start in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(self._run, params=params[start : start + MLFLOW_BATCH])

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        allowed = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in metrics.items()}
        self._client.log_batch(self._run, metrics=[self._metric(name, value, now, step) for name, value in allowed.items()])

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


@dataclass(frozen=True)
class _Kept:
    """The id of a run, in a file of the run's folder."""

    path: Path

    def read(self) -> str | None:
        return self.path.read_text().strip() if self.path.exists() else None

    def write(self, value: str) -> None:
        self.path.write_text(value + "\n")


def flat(settings: dict, prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}."""
    pairs = {}
    for name, value in settings.items():
        pairs |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return pairs
