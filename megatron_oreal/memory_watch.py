"""Who held how much memory when a process was killed for it: the kernel says nothing to those that are left."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

KILL_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
"""Each with a line `oom_kill N`: of this container, where it is one, and of the machine."""
LOOK_EVERY_S = 1.0
GB = 1e9


class MemoryWatch:
    """Looks at the processes of a run from time to time."""

    def __init__(self, counters: tuple[Path, ...] = KILL_COUNTERS):
        self._counters, self._kills = counters, _kills(counters)
        self._held: dict[str, float] = {}  # bytes, as last seen
        self._looked = 0.0

    def look(self, processes: Mapping[str, int]) -> None:
        """At these (name -> process id), and at all else that we and they started (engines, verifiers); at most once in LOOK_EVERY_S."""
        if time.monotonic() < self._looked + LOOK_EVERY_S:
            return
        self._looked, held = time.monotonic(), {}
        for name, pid in processes.items():
            with suppress(psutil.Error):  # it has just ended
                held[name] = _own(psutil.Process(pid))
        started = psutil.Process().children(recursive=True)  # once: it goes through all processes of the machine
        others = sum(_own(process) for process in started if process.pid not in processes.values())
        if held:
            self._held = held | {"engines and verifiers": others}

    def blame(self) -> str:
        """Of a process that was killed: whether memory ran out, and who held how much of it; empty where it was not for memory."""
        if _kills(self._counters) <= self._kills:
            return ""
        held = ", ".join(f"{name} {nbytes / GB:.1f} GB" for name, nbytes in self._held.items())
        total = psutil.virtual_memory().total / GB
        return f": memory ran out ({held} of the machine's {total:.1f} GB when last seen)"


def _kills(counters: tuple[Path, ...]) -> int:
    """How many processes the kernel has killed for memory so far."""
    for path in counters:
        with suppress(OSError, StopIteration):
            line = next(line for line in path.read_text().splitlines() if line.startswith("oom_kill "))
            return int(line.split()[1])
    return 0


def _own(process: psutil.Process) -> float:
    """Bytes in memory without what is shared with others; 0 where it has just ended."""
    with suppress(psutil.Error):
        memory = process.memory_info()
        return memory.rss - memory.shared
    return 0.0
