"""What rank 0 says of a run: the console for people, metrics for trackers, and the files that tell how it ended."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from megatron_oreal.monitor.config import MonitorConfig
from megatron_oreal.monitor.console import Console, step_line
from megatron_oreal.monitor.trackers import Trackers, open_trackers

STOPPED = "stopped"
"""File of a run that was asked to stop and is to go on: with it alone can its status 0 be told from that of a finished run."""


class Reporter:
    """Use as a context manager around a run; between, `open` before the first step."""

    def __init__(self, title: str, steps: int, config: MonitorConfig, run_dir: Path, settings: dict, line_every: int = 1):
        """`settings`: the run's configuration, for the trackers; `line_every`: steps between their lines on the console."""
        self.console = Console(title, steps)
        self._title, self._steps, self._config, self._run_dir, self._settings = title, steps, config, run_dir, settings
        self._line_every = line_every
        self._log: Trackers | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "Reporter":
        self._stack.enter_context(self.console)
        return self

    def __exit__(self, kind, *_) -> None:
        if self._log:
            self._log.close(failed=kind is not None)
        self._stack.close()

    def say(self, line: str) -> None:
        """A line that stays on the console."""
        self.console.say(line)

    def open(self, after_step: int | None = None, seconds: float = 0.0, said: str = "") -> None:
        """Begin a run's metrics, or go on `after_step`, when it was `seconds` old; `said`: how it goes on, for people."""
        (self._run_dir / STOPPED).unlink(missing_ok=True)
        self._log = open_trackers(self._config, self._run_dir, self._settings, self.say, after_step, seconds)
        if after_step is not None:
            self.console.resume(after_step, said)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics for the trackers alone."""
        self._log.write(step, dict(metrics))

    def step(self, step: int, metrics: Mapping[str, float], remark: str = "") -> None:
        """A step is over: its line, where that is wanted, and its metrics."""
        if step % self._line_every == 0 or step == self._steps:
            self.console.step(step, step_line(metrics) + remark)
        self.write(step, metrics)

    def stopped(self, step: int) -> None:
        """The last line of a run that was asked to stop, and the file that says so to whoever started it (launch/slurm/job.sh)."""
        (self._run_dir / STOPPED).write_text(f"after step {step}\n")
        self.say(f"stopped after step {step} as asked and saved; the same command with resume=auto goes on from there")

    def summary(self, found: Mapping[str, object]) -> None:
        """Write summary.json and show it."""
        (self._run_dir / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
        percent = ("pass_at", "validation")
        self.console.table(self._title, [(k, f"{v:.1%}" if k.startswith(percent) else str(v)) for k, v in found.items()])
