"""A host's engines: started, watched, started again where they end or are given up, and registered in a folder of the run."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from megatron_oreal.engines.control import ControlReader
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.registry import RegistryEntry, register, registry_folder
from megatron_oreal.engines.server import Server
from megatron_oreal.rollout.config import RolloutConfig

POLL_S = 0.5
PROBE_S = 5.0
JOIN_S = 20.0
FAILED_STARTS = 3
"""Restarts in a row that do not become ready, after which an engine is left alone."""


class Supervisor(threading.Thread):
    """The thread that starts a host's servers and lives as long as they do (the kernel ends a server with the thread that forked it)."""

    def __init__(
        self, config: RolloutConfig, model_path: str, dtype: str, run_dir: Path, numbers: range, asked: int | None, copy: str = ""
    ):
        """`numbers`: which of the run's engines are this host's; `asked`: answers that each is asked for at one time (see demand); `copy`:
        as in RegistryEntry."""
        super().__init__(name="engines", daemon=True)
        self._folder = registry_folder(run_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:  # of an earlier attempt at this run
            for name in (f"{number}.json", f"{number}.lost"):
                (self._folder / name).unlink(missing_ok=True)
        self._control, self._done = ControlReader(self._folder), threading.Event()

        def maker(number: int, place: int) -> Callable[[int], Server]:
            return lambda start: Server(config, model_path, dtype, run_dir, number, start, place * config.tp, asked)

        self._engines = [
            _Supervised(self._folder, self._control, number, config.ready_timeout_s, maker(number, place), copy)
            for place, number in enumerate(numbers)
        ]

    def run(self) -> None:
        try:
            while True:
                for engine in self._engines:
                    engine.look()
                if self._done.wait(POLL_S) or self._control.over:
                    break
        finally:
            for engine in self._engines:
                engine.stop()

    @property
    def failures(self) -> list[str]:
        """Of the engines that were left alone, why they do not come up."""
        return [engine.failed for engine in self._engines if engine.failed]

    def stop(self) -> None:
        """End the servers."""
        self._done.set()
        self.join(JOIN_S * len(self._engines))


class _Supervised:
    """One engine of this host. Where starting it fails for good it is left alone, and says so; the others live on."""

    def __init__(self, folder: Path, control: ControlReader, number: int, ready_timeout_s: float, make: Callable[[int], Server], copy: str):
        self._folder, self._control, self._number, self._timeout_s, self._make = folder, control, number, ready_timeout_s, make
        self._copy = copy
        self._server: Server | None = None  # None: it is to be started
        self._ready, self._start, self._failures, self._deadline = False, 0, 0, 0.0
        self.failed = ""

    def look(self) -> None:
        """Start it, or notice that it is ready, has ended, was given up, or does not come up."""
        if self.failed:
            return
        if self._server is None:
            self._begin()
        elif not self._ready and self._server.ended:
            self._failed_start(self._server.not_ready)
        elif self._server.ended or self._control.restart(self._number, self._start):
            self._end()
        elif not self._ready and self._server.endpoint.healthy(PROBE_S):
            self._ready, self._failures = True, 0
            self._register()
        elif not self._ready and self._start and time.monotonic() > self._deadline:  # of the first start rank 0 keeps the time
            self._failed_start(self._server.late)

    def _begin(self) -> None:
        if self._start and self._control.held:
            return
        try:
            self._server = self._make(self._start)
            self._deadline = time.monotonic() + self._timeout_s
        except OSError as error:
            self.failed = f"SGLang could not be started: {error}"
        self._register()

    def _failed_start(self, why: str) -> None:
        self._failures += 1
        if self._start == 0 or self._failures >= FAILED_STARTS:
            self.failed = why
            self._register()
            self._server.kill()
        else:
            self._end()

    def _end(self) -> None:
        self._server.kill()
        self._server, self._ready = None, False
        self._start += 1

    def _register(self) -> None:
        endpoint = self._server.endpoint if self._server else Endpoint("")
        register(self._folder, RegistryEntry(self._number, self._start, endpoint, self._ready, self.failed, self._copy))

    def stop(self) -> None:
        """End the server."""
        if self._server:
            self._server.stop()
