"""Virtual seconds, of which many pass in each real one while nobody computes.

Engines' time is fast, the conductor's is not: while its process has work, the clock goes on by the CPU time that this takes and no faster.
And a tick counts for no more than TICK_S, however late it comes. So what the clock says does not depend on how much of the machine this
process and the conductor's get.
"""

import asyncio
import heapq
import os
import time
from itertools import count
from pathlib import Path

TICK_S = 0.005
LOOK_AGAIN = 50
"""Ticks between two looks for the conductor's children."""


class Clock:
    """Counts virtual seconds while it runs, on the event loop of all that ask it."""

    def __init__(self, speed: float, conductor: "Watched | None" = None):
        """`speed`: virtual seconds in a real one, while the conductor has nothing to do. Without one it always is so."""
        self._speed, self._conductor, self.now = speed, conductor, 0.0
        self._waiting: list[tuple[float, int, asyncio.Future]] = []
        self._number = count()

    async def run(self) -> None:
        """For ever."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self.now += self._passed(min(now - before, TICK_S))
            before = now
            while self._waiting and self._waiting[0][0] <= self.now:
                _, _, reached = heapq.heappop(self._waiting)
                if not reached.done():
                    reached.set_result(None)

    def _passed(self, seconds: float) -> float:
        worked = self._conductor.worked_s() if self._conductor else None
        return seconds * self._speed if worked is None else worked

    async def wait_until(self, moment: float) -> None:
        """Return at once where it has passed."""
        if moment > self.now:
            reached = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (moment, next(self._number), reached))
            await reached

    async def reaches(self, moment: float, unless: asyncio.Event) -> bool:
        """Wait for a moment; False if the event was set before."""
        tasks = [asyncio.ensure_future(self.wait_until(moment)), asyncio.ensure_future(unless.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        return not unless.is_set()


class Watched:
    """What CPU another process and its children use, by /proc; without this process."""

    def __init__(self, pid: int):
        self._pid, self._ticks, self._processes = pid, 0, [pid]
        self._used = 0

    def worked_s(self) -> float | None:
        """Seconds of CPU since the last call; None where there were none, and nothing waits for a CPU either."""
        if self._ticks % LOOK_AGAIN == 0:
            self._processes = [self._pid, *self._children()]
        self._ticks += 1
        threads = [thread for process in self._processes for thread in _threads(process)]
        used = sum(int(_read(thread / "schedstat").partition(" ")[0] or 0) for thread in threads)
        worked, self._used = max(0, used - self._used), used
        if worked or any(_read(thread / "stat").rpartition(")")[2].startswith(" R") for thread in threads):
            return worked / 1e9
        return None

    def _children(self) -> list[int]:
        found = [child for thread in _threads(self._pid) for child in _read(thread / "children").split()]
        return [int(child) for child in found if int(child) != os.getpid()]


def _threads(process: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return []


def _read(file: Path) -> str:
    """Empty where the thread has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""
