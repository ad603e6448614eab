"""Whole runs, in processes of their own."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from megatron_oreal import launcher

ROOT = Path(__file__).parents[1]
RUN_DEADLINE_S = 400


def start(*overrides: str, module: str = "megatron_oreal.train", **options) -> subprocess.Popen:
    """Output and errors come through one pipe; `options` are Popen's."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return launcher.start_module(module, overrides, cwd=ROOT, **pipe | options)


def finish(run: subprocess.Popen, deadline_s: float = RUN_DEADLINE_S) -> str:
    """What it said, once it has ended; in time, or it is killed."""
    try:
        output, _ = run.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _kill_all(run)
        raise
    return output


def wait_for(run: subprocess.Popen, condition: Callable[[], bool], deadline_s: float = RUN_DEADLINE_S) -> None:
    """Return when the condition is met; fail where the run ends before, or takes too long and is killed."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert run.poll() is None, f"the run ended with {run.returncode}:\n{run.stdout.read()}"
        if time.monotonic() > deadline:
            _kill_all(run)
            raise AssertionError("the run took too long")
        time.sleep(0.005)


def kill(run: subprocess.Popen) -> None:
    """Its whole group at once (it was started with start_new_session); returns when what it had started is gone as well."""
    family = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    wait_until_gone(family, 30)


def _kill_all(run: subprocess.Popen) -> None:
    """Of a test that fails: gigabytes of a run that goes on would fail the next one as well."""
    for process in (*psutil.Process(run.pid).children(recursive=True), run):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_until_gone(processes: list[psutil.Process], seconds: float) -> None:
    """Fail where one of them still runs then."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], f"still there: {alive}"


def metrics_of(run_dir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl so far."""
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


class Run:
    """A training run in processes of its own, in a process group of its own."""

    def __init__(self, run_dir: Path, *overrides: str, deadline_s: float = RUN_DEADLINE_S, module: str = "megatron_oreal.train"):
        self.run_dir, self._deadline_s = run_dir, deadline_s
        self.process = start(f"run_dir={run_dir}", *overrides, module=module, start_new_session=True)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_for(self.process, condition, self._deadline_s)

    def kill(self) -> None:
        kill(self.process)

    def finish(self) -> str:
        return finish(self.process, self._deadline_s)

    def metrics(self) -> dict[int, dict]:
        """By step, without what depends on the clock.

        Nor with the distance to the engine's log-probabilities: their last bits depend on which requests meet in the engine.
        """
        rows = metrics_of(self.run_dir)
        assert len({row["step"] for row in rows}) == len(rows), "a step stands there twice"
        varies = ("time/", "perf/", "memory/", "logprob/", "eval/seconds")
        return {r["step"]: {k: v for k, v in r.items() if not k.startswith(varies)} for r in rows}

    def weights(self, folder: str = "hf") -> dict[str, torch.Tensor]:
        return {name: tensor for part in (self.run_dir / folder).glob("*.safetensors") for name, tensor in load_file(part).items()}

    @property
    def steps_done(self) -> int:
        return max((row["step"] for row in metrics_of(self.run_dir)), default=0)
