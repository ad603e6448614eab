"""Who is told the metrics: metrics.jsonl always, TensorBoard, Weights & Biases and MLflow as configured. None of them can end a run."""

import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from megatron_oreal.monitor.boards import MLflow, TensorBoard, Tracker, Wandb
from megatron_oreal.monitor.config import MonitorConfig
from megatron_oreal.monitor.metrics import MetricsLog

MOST_WAITING = 1000
"""Rows for a tracker that does not keep up (its server is away); more are dropped and counted."""
CLOSES_WITHIN_S = 60.0


def check_trackers(config: MonitorConfig) -> None:
    """Raises ValueError, one line, where a tracker is configured whose library is not installed."""
    for wanted, name, library in (
        (config.tensorboard, "tensorboard=true", "tensorboard"),
        (config.wandb.project, f"wandb.project={config.wandb.project}", "wandb"),
        (config.mlflow.experiment, f"mlflow.experiment={config.mlflow.experiment}", "mlflow"),
    ):
        spec = find_spec(library) if wanted else None
        if wanted and (spec is None or spec.origin is None):  # a folder of that name here is no library
            raise ValueError(f"monitor.{name}: {library} is not installed; pip install {library}")


def open_trackers(
    config: MonitorConfig,
    run_dir: str | Path,
    settings: dict,
    warn: Callable[[str], None],
    after_step: int | None = None,
    seconds: float = 0.0,
) -> "Trackers":
    """A run that goes on after `after_step`, `seconds` old by then, goes on in each of them; else it is a new one.

    settings: the run's configuration, for those that show it. warn: says a line to the user, from any thread.
    """
    run_dir = Path(run_dir)
    others: dict[str, Callable[[], Tracker]] = {}
    if config.tensorboard:
        others["tensorboard"] = lambda: TensorBoard(run_dir, after_step)
    if config.wandb.project:
        others["wandb"] = lambda: Wandb(config.wandb, run_dir, settings, after_step)
    if config.mlflow.experiment:
        others["mlflow"] = lambda: MLflow(config.mlflow, run_dir, settings, after_step)
    log = MetricsLog(run_dir, after_step, seconds)
    return Trackers(log, [_TrackerThread(name, make, warn) for name, make in others.items()], warn)


class Trackers:
    """All of a run's. Use as a context manager, or call `close`."""

    def __init__(self, log: MetricsLog, others: "list[_TrackerThread]", warn: Callable[[str], None]):
        self._log, self._others, self._warn = log, others, warn
        self._failures = 0  # of metrics.jsonl

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """A step's metrics; `monitor/failures/NAME` among them says how many rows have not got there so far, where that is any."""
        lost = {"metrics.jsonl": self._failures} | {other.name: other.failures for other in self._others}
        metrics = metrics | {f"monitor/failures/{name}": times for name, times in lost.items() if times}
        try:
            self._log.write(step, metrics)
        except OSError as error:  # what could not be written is kept, and written with the next row
            self._failures += 1
            if self._failures == 1:
                self._warn(f"warning: metrics.jsonl: {error}; the run goes on, it is tried again with each step")
        for other in self._others:
            other.write(step, metrics)

    def close(self, failed: bool = False) -> None:
        """What is waiting is delivered, within a deadline; `failed`: the run ends with an error."""
        deadline = time.monotonic() + CLOSES_WITHIN_S
        for other in self._others:
            other.finish(failed)
        for other in self._others:
            other.wait(deadline)
        try:
            self._log.close()
        except OSError as error:
            self._warn(f"warning: metrics.jsonl: {error}")

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close(failed=kind is not None)


class _TrackerThread(threading.Thread):
    """A tracker in a thread of its own: training does not wait for it, and whatever it raises is said once and counted."""

    def __init__(self, name: str, make: Callable[[], Tracker], warn: Callable[[str], None]):
        super().__init__(name=name, daemon=True)  # a server that does not answer cannot keep the process
        self._make, self._warn, self._tracker = make, warn, None
        self._rows: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(MOST_WAITING)
        self._failed_run = self._warned = False
        self.failures = 0
        self.start()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Returns at once; values that are not finite are left out, as not every tracker takes them."""
        try:
            self._rows.put_nowait((step, {name: float(value) for name, value in metrics.items() if math.isfinite(value)}))
        except queue.Full:
            self._failed(TimeoutError(f"{MOST_WAITING} rows are waiting for it"))

    def finish(self, failed: bool) -> None:
        """No row comes after this."""
        self._failed_run = failed
        with suppress(queue.Full):  # then it will not be done in time, and `wait` says so
            self._rows.put_nowait(None)

    def wait(self, deadline: float) -> None:
        """Until everything is delivered, or the deadline (on time.monotonic())."""
        self.join(max(0.0, deadline - time.monotonic()))
        if self.is_alive():
            self._warn(f"warning: {self.name}: not done within {CLOSES_WITHIN_S:.0f} s, {self._rows.qsize()} rows are lost to it")

    def run(self) -> None:
        self._try(self._open)
        while (row := self._rows.get()) is not None:
            self._try(lambda row=row: self._open().write(*row), rows=1)
        if self._tracker:
            self._try(lambda: self._tracker.close(self._failed_run))

    def _open(self) -> Tracker:
        self._tracker = self._tracker or self._make()
        return self._tracker

    def _try(self, work: Callable[[], object], rows: int = 0) -> None:
        try:
            work()
        except Exception as error:  # of somebody else's library, server or disk: no reason to end a run
            self._failed(error, rows)

    def _failed(self, error: Exception, rows: int = 1) -> None:
        self.failures += rows
        if not self._warned:
            self._warned = True
            reason = (str(error).splitlines() or [""])[0][:200]
            self._warn(f"warning: {self.name}: {type(error).__name__}: {reason}; the run goes on, metrics.jsonl has everything")
