"""Whether sleeping engines have really let go of this rank's GPU.

SGLang 0.5.21 answers /release_memory_occupation when its first TP rank has freed its memory; the others follow by themselves, and a rank
that trains at once on one of their GPUs can run out of memory (slime and miles both had to wait for that).
"""

import time
from collections.abc import Callable

from megatron_oreal.model.platform import Platform

SLACK_BYTES = 512 << 20
"""What sleeping engines may hold more than the last time: libraries take memory as they come to need it."""
FELL_BYTES = 16 << 20
SETTLED_S = 1.0
"""Nothing more is waited for where nothing has fallen for so long: then they keep it."""
POLL_S = 0.005


class Room:
    """Of one rank; its engines are asleep to begin with."""

    def __init__(self, platform: Platform, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._platform, self._now, self._sleep = platform, now, sleep
        self._asleep: int | None = None  # what other processes held on this GPU when the engines slept last
        self._sleeping = True

    def note_asleep(self) -> None:
        """Engines are about to wake, and have been asleep for a while, unless they never slept since the last time."""
        if self._sleeping:
            self._asleep, self._sleeping = self._platform.memory_of_others(), False

    def wait(self) -> None:
        """The engines have said that they sleep; return when this GPU's memory shows it, or shows that they keep some."""
        self._sleeping = True
        if self._asleep is None:
            return
        least, since = self._platform.memory_of_others(), self._now()
        while least > self._asleep + SLACK_BYTES and self._now() - since < SETTLED_S:
            self._sleep(POLL_S)
            held = self._platform.memory_of_others()
            if held < least - FELL_BYTES:
                since = self._now()
            least = min(least, held)
