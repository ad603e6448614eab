"""A command run to its end, and what it and all that it started held in memory at most, and who else computed, at each stage of its work.

Proportional set sizes (/proc/PID/smaps_rollup, Linux alone) and what is swapped out: a page that several of the processes share counts
once, files mapped into memory count. The kernel goes through all pages for them (measured: 16 ms a GiB), so resident sizes, which cost
nothing, are looked at each second, and the exact figure is taken where they are higher than ever before at that stage.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from megatron_oreal.devices import GIB

LOOK_EVERY_S = 1.0
HIGHER = 1.01
"""Resident memory over that of the last exact look, from which another one is worth its time."""
ENDS_WITHIN_S = 30


@dataclass(frozen=True)
class Held:
    """Memory in use at one moment, in GiB."""

    total: float
    processes: dict[str, float] = field(default_factory=dict)  # "name pid" -> GiB, the largest first


def held_by(processes: Sequence[psutil.Process]) -> Held:
    """What these hold; nothing where one has just ended."""
    found = {}
    for process in processes:
        with suppress(psutil.Error, OSError):
            found[f"{_label(process)} {process.pid}"] = _proportional(process.pid) / GIB
    return Held(sum(found.values()), dict(sorted(found.items(), key=lambda item: -item[1])))


def _label(process: psutil.Process) -> str:
    """Its name; of an interpreter, the module that it was started with."""
    words = process.cmdline()
    return words[words.index("-m") + 1] if process.name().startswith("python") and "-m" in words[:-1] else process.name()


def _proportional(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Pss:", "SwapPss:")))


def tree_of(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it; empty where it has ended."""
    with suppress(psutil.Error):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


@dataclass
class Stage:
    """What was seen while the command was at it."""

    held: Held = field(default_factory=lambda: Held(0.0))  # at the most
    seconds: float = 0.0
    others_s: float = 0.0  # CPU seconds of all other processes of the machine but whoever looks, and stolen from it

    @property
    def others(self) -> float:
        """Cores that others kept busy."""
        return self.others_s / self.seconds if self.seconds else 0.0


class TreeWatch:
    """Looks at a process and its descendants from time to time."""

    def __init__(self, pid: int):
        self._pid, self._resident = pid, {}
        self._clock, self._busy, self._ours = time.monotonic(), _busy_s(), _spent([psutil.Process()])
        self.stages: dict[str, Stage] = {}

    def look(self, name: str) -> None:
        """At what they hold now, and at what was computed since the last look; all that counts for the stage of this name."""
        processes, stage = tree_of(self._pid), self.stages.setdefault(name, Stage())
        self._count_seconds(processes, stage)
        resident = 0
        for process in processes:
            with suppress(psutil.Error):
                resident += process.memory_info().rss
        if resident > HIGHER * self._resident.get(name, 0):
            self._resident[name] = resident
            stage.held = max(held_by(processes), stage.held, key=lambda held: held.total)

    def _count_seconds(self, processes: Sequence[psutil.Process], stage: Stage) -> None:
        """A process that ended since the last look has its last moments counted as others'."""
        before, self._ours = self._ours, _spent([psutil.Process(), *processes])
        clock, busy = time.monotonic(), _busy_s()
        ours = sum(spent - before.get(pid, 0.0) for pid, spent in self._ours.items())
        stage.seconds += clock - self._clock
        stage.others_s += max(busy - self._busy - ours, 0.0)
        self._clock, self._busy = clock, busy


def _spent(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """CPU seconds of each so far."""
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _busy_s() -> float:
    """CPU seconds of the machine so far that were not idle."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def run_watched(
    command: Sequence[object], log: Path, environment: Mapping[str, str], stage: Callable[[], str], cwd: Path, timeout_s: float
) -> dict[str, Stage]:
    """Run a command to its end, with what it says in `log`; what was seen of it at each stage that `stage()` named.

    Raises:
        RuntimeError: it failed, or had not ended in time; one line, with the last that it said.
    """
    deadline = time.monotonic() + timeout_s
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen([str(w) for w in command], cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            watch = TreeWatch(process.pid)
            while process.poll() is None and time.monotonic() < deadline:
                watch.look(stage())
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_EVERY_S)
            status = process.poll()
        finally:
            _end(process)
    if status != 0:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(nothing)"]
        how = f"had not ended after {timeout_s:.0f} s" if status is None else f"ended with status {status}"
        raise RuntimeError(f"{how}: {said[-1].strip()} (all that it said: {log})")
    return watch.stages


def _end(process: subprocess.Popen) -> None:
    """With all that it started; nothing where it has ended by itself."""
    if process.poll() is not None:
        return
    left = tree_of(process.pid)
    for signalled in ("terminate", "kill"):
        for each in left:
            with suppress(psutil.Error):
                getattr(each, signalled)()
        _, left = psutil.wait_procs(left, ENDS_WITHIN_S)
