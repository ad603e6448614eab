"""What rank 0 tells the supervisors of the engines, on whichever hosts they are, through files in the run's folder of engines.

`<number>.lost` asks for a restart, `hold` for none until it is gone, `pulse` changes as long as the run lives.
"""

import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from megatron_oreal.engines.registry import write_privately

PULSE_S = 5.0
SILENT_S = 90.0
"""Without a new pulse, after which a run counts as over: several times what a shared file system may hide a change."""
HOLD = "hold"
PULSE = "pulse"
OVER = "over"


class ControlWriter:
    """Rank 0's side. The run's pulse goes on in a thread until over() is called, or this process ends in whatever way."""

    def __init__(self, folder: Path):
        self._folder, self._run, self._done = folder, secrets.token_hex(8), threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self.go_on()  # the run may be a resumed one that was killed while its engines slept
        self._beat("0")
        threading.Thread(target=self._pulse, name="pulse", daemon=True).start()

    def restart(self, number: int, start: int) -> None:
        """The engine that was started `start` times before is to be started again."""
        write_privately(self._folder / f"{number}.lost", str(start).encode())

    def hold(self) -> None:
        """No engine is to be started from now on."""
        write_privately(self._folder / HOLD, b"")

    def go_on(self) -> None:
        """Engines may be started again."""
        (self._folder / HOLD).unlink(missing_ok=True)

    def over(self) -> None:
        """The run ends: no engine is needed any more."""
        self._done.set()
        with suppress(OSError):  # of a run that ends because its disk is full, for example; without a pulse the engines end as well
            self._beat(OVER)

    def _pulse(self) -> None:
        count = 0
        while not self._done.wait(PULSE_S):
            count += 1
            with suppress(OSError):  # the next one may get through
                self._beat(str(count))

    def _beat(self, count: str) -> None:
        write_privately(self._folder / PULSE, f"{self._run} {count}".encode())


class ControlReader:
    """A supervisor's side: what rank 0 wants of it. A file that cannot be read says nothing new."""

    def __init__(self, folder: Path, silent_s: float = SILENT_S):
        """`silent_s`: without a new pulse, after which the run counts as over."""
        self._folder, self._silent_s = folder, silent_s
        self._pulse, self._changed = self._read(PULSE), None  # that of an earlier attempt, if it never changes

    def restart(self, number: int, start: int) -> bool:
        """Whether this engine, as it runs now, is to be started again."""
        return self._read(f"{number}.lost") == str(start)

    @property
    def held(self) -> bool:
        """Whether no engine is to be started now."""
        return (self._folder / HOLD).exists()

    @property
    def over(self) -> bool:
        """Whether the run has ended, or has been silent for too long since it was first heard of."""
        pulse, now = self._read(PULSE), time.monotonic()
        if pulse and pulse != self._pulse:
            self._pulse, self._changed = pulse, now
        if self._changed is None:
            return False
        return self._pulse.endswith(OVER) or now - self._changed > self._silent_s

    def _read(self, name: str) -> str:
        try:
            return (self._folder / name).read_text()
        except OSError:
            return ""
