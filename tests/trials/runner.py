"""Runs a trial and judges it: ended in time, with the status and the words that were expected, no traceback, nothing left behind."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from tests.trials.trial import Trial

ROOT = Path(__file__).parents[2]
GONE_WITHIN_S = 20.0  # engines whose run has ended
PR_SET_CHILD_SUBREAPER = 36
LEFT_OVER = re.compile(r"RANK|WORLD_SIZE|LOCAL_|MASTER_|SLURM_|.*_proxy$|NETRC$|PYTEST|COV_", re.IGNORECASE)
SKIPPED = re.compile(r"^SKIPPED \[\d+\] \S+ (.*)", re.MULTILINE)  # by pytest
SHOWN = 150  # characters of a line


@dataclass(frozen=True)
class Outcome:
    """wrong: what is wrong with it; skipped: why it was not tried; line: what was said of the matter."""

    trial: Trial
    log: Path
    seconds: float = 0.0
    status: int | None = None
    wrong: str = ""
    skipped: str = ""
    line: str = ""

    def __str__(self) -> str:
        if self.skipped:
            return f"{'skipped':12} {self.trial.name}   {self.skipped}"
        kind = "WRONG" if self.wrong else self.trial.kind
        told = f"{self.wrong}; see {self.log}" if self.wrong else self.line[:SHOWN]
        return f"{kind:12} {self.trial.name}   {self.status}   {self.seconds:.0f} s   {told}"


@cache
def task(folder: Path) -> Path:
    """The demo's small model and its data, made once."""
    from tools import make_demo

    if not (folder / "base" / "tokenizer.json").exists():
        make_demo.main(["--out", str(folder), "--train", "48", "--heldout", "8", "--sft", "60"])
    return folder


def run(trial: Trial, folder: Path) -> Outcome:
    """Try it in a new folder of its own below `folder`, beside the task; the log stays there."""
    own = folder / trial.folder
    log = own.with_suffix(".log")
    if why := trial.why_not() or (_why_no_mounts() if trial.own_mounts else ""):
        return Outcome(trial, log, skipped=why)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    (own / "demo").symlink_to(task(folder / "task"))
    for prepare in trial.before:
        prepare(own)
    begun = time.monotonic()
    with trial.beside(own) as variables:
        status, left = _ended(trial, own, log, variables)
        seconds = time.monotonic() - begun
        said = log.read_text(errors="replace")
        lines = [line for line in said.splitlines() if re.search(trial.says, line)]
        wrong = _wrong(trial, status, left, said, lines) or _look(trial, own)
    if status == 0 and (skipped := SKIPPED.search(said)) and " passed" not in said:
        return Outcome(trial, log, skipped=skipped[1])
    if not wrong:
        shutil.rmtree(own)
    return Outcome(trial, log, seconds, status, wrong, line=lines[-1].strip() if lines else "")


def _wrong(trial: Trial, status: int | None, left: list[str], said: str, lines: list[str]) -> str:
    """The first thing that is."""
    if status is None:
        return f"did not end within {trial.deadline_s:.0f} s"
    if "Traceback" in said:
        return "a traceback"
    if status != trial.status:
        return f"status {status}, not {trial.status}"
    if left:
        return f"left behind: {', '.join(left)}"
    errors = [line for line in said.splitlines() if line.startswith("error")]
    if status and not errors:
        return "no line that begins with error"
    if status and not any(line in errors for line in lines) or not lines:
        return f"nothing said like {trial.says!r}"
    return ""


def _look(trial: Trial, own: Path) -> str:
    """What is wrong with what it has left."""
    try:
        return trial.then(own)
    except (OSError, LookupError, ValueError) as error:
        return f"what it left cannot be read: {error!r}"


def _ended(trial: Trial, own: Path, log: Path, variables: Mapping[str, str]) -> tuple[int | None, list[str]]:
    """Its status, None where it did not end in time; and what of its processes is still there a while after."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes our child, and is seen
    before = set(psutil.Process().children(recursive=True))
    shell = ["bash", "-c", f"{trial.shell}\n{trial.command}"]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*(["unshare", "--mount", "--propagation", "private"] if trial.own_mounts else []), *shell],
            cwd=own,
            env=_environment(own) | trial.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait(process, trial.deadline_s)
    return process.poll(), _left_behind(before, GONE_WITHIN_S if process.poll() is not None else 0)


def _wait(process: subprocess.Popen, seconds: float) -> None:
    """Until it ends, or so long. Time in which we were stopped ourselves does not count."""
    while process.poll() is None and seconds > 0:
        begun = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        seconds -= min(time.monotonic() - begun, 1.0)


def _left_behind(before: set[psutil.Process], seconds: float) -> list[str]:
    """What is still there after so many seconds; killed then."""
    deadline = time.monotonic() + seconds
    while (left := _alive(before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline()[:4]) or process.name())
            process.kill()
    psutil.wait_procs(left, timeout=10)
    return names


def _alive(before: set[psutil.Process]) -> list[psutil.Process]:
    """Our new descendants; those that have ended and nobody else waits for are reaped."""
    alive = []
    for process in set(psutil.Process().children(recursive=True)) - before:
        with suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
            elif process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)
    return alive


def _environment(own: Path) -> dict[str, str]:
    """A user's, in whose PATH this checkout is installed; one thread a process, for few cores."""
    bin_dir = own.parent / "bin"
    bin_dir.mkdir(exist_ok=True)
    for name, module in (("megatron-oreal", " -m megatron_oreal.cli.main"), ("python", "")):
        (bin_dir / name).write_text(f'#!/bin/sh\nexec {sys.executable}{module} "$@"\n')
        (bin_dir / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not LEFT_OVER.match(name)}
    own_ones = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "CHECKOUT": str(ROOT)}
    return kept | own_ones | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}


@cache
def _why_no_mounts() -> str:
    if os.geteuid() or not shutil.which("unshare"):
        return "mounts of its own take root and unshare"
    tried = subprocess.run(["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return f"no mounts of its own: {tried.stderr.decode().strip()}" if tried.returncode else ""


def stop_on_sigterm() -> None:
    """So that what was started is ended with us."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
