"""A host's engines: started, watched, started again where they end or are given up, and registered in a folder of the run.

The folder is how rank 0 finds them, on whichever hosts they are: `<run_dir>/engines/<number>.json`, readable by the run's user alone
(each holds a key). A file `<number>.lost` asks for a restart, a file `closed` says that the run is over.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.server import Endpoint, Server, ServerError

POLL_S = 0.2
PROBE_S = 5.0
JOIN_S = 20.0
FAILED_STARTS = 3
"""Restarts in a row that do not become ready, after which an engine is left alone."""


@dataclass(frozen=True)
class Registered:
    """What is known of an engine."""

    number: int
    start: int  # how often it was started before
    endpoint: Endpoint
    ready: bool = False  # it has answered once
    failed: str = ""  # why it will not come up


class Keeper(threading.Thread):
    """The thread that starts a host's servers and lives as long as they do (the kernel ends a server with the thread that forked it)."""

    def __init__(self, config: RolloutConfig, model_path: str, dtype: str, run_dir: Path, numbers: range):
        """`numbers`: which of the run's engines are this host's."""
        super().__init__(name="engines", daemon=True)
        self._config, self._folder = config, folder_of(run_dir)
        self._make = lambda number, start: Server(
            config, model_path, dtype, run_dir, number, start, first_gpu=(number - numbers.start) * config.tp
        )
        self._numbers, self._kept, self._done = numbers, {}, threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:  # of an earlier attempt at this run
            for name in (f"{number}.json", f"{number}.lost"):
                (self._folder / name).unlink(missing_ok=True)
        self._since = time.time()

    def run(self) -> None:
        try:
            for number in self._numbers:
                self._kept[number] = _Kept(self._folder, number, self._make)
            while not self._done.wait(POLL_S) and not self._run_is_over():
                for kept in self._kept.values():
                    kept.look()
        finally:
            for kept in self._kept.values():
                kept.stop()

    def _run_is_over(self) -> bool:
        try:
            return (self._folder / "closed").stat().st_mtime > self._since
        except FileNotFoundError:
            return False

    def stop(self) -> None:
        """End the servers."""
        self._done.set()
        self.join(JOIN_S * len(self._numbers))


class _Kept:
    """One engine of this host."""

    def __init__(self, folder: Path, number: int, make):
        self._folder, self._number, self._make = folder, number, make
        self._failures, self._start = 0, 0
        self._begin()

    def _begin(self) -> None:
        self._ready, self._failed = False, ""
        try:
            self._server = self._make(self._number, self._start)
            self._register()
        except OSError as error:
            raise ServerError(f"SGLang could not be started: {error}") from error

    def look(self) -> None:
        """Notice that it is ready, has ended, or was given up."""
        if self._failed:
            return
        if self._server.ended and not self._ready:
            self._failures += 1
            if self._start == 0 or self._failures >= FAILED_STARTS:
                self._failed = self._server.not_ready
                self._register()
            else:
                self._again()
        elif self._server.ended or self._given_up():
            self._again()
        elif not self._ready and self._server.endpoint.healthy(PROBE_S):
            self._ready, self._failures = True, 0
            self._register()

    def _given_up(self) -> bool:
        try:
            return int((self._folder / f"{self._number}.lost").read_text()) == self._start
        except (FileNotFoundError, ValueError):
            return False

    def _again(self) -> None:
        self._server.kill()
        self._start += 1
        self._begin()

    def _register(self) -> None:
        entry = Registered(self._number, self._start, self._server.endpoint, self._ready, self._failed)
        write_privately(self._folder / f"{self._number}.json", msgspec.json.encode(entry))

    def stop(self) -> None:
        self._server.stop()


def folder_of(run_dir: Path) -> Path:
    """Where a run's engines are registered."""
    return run_dir / "engines"


def registered(folder: Path) -> dict[int, Registered]:
    """The engines registered so far, by number."""
    entries = (msgspec.json.decode(path.read_bytes(), type=Registered) for path in folder.glob("[0-9]*.json"))
    return {entry.number: entry for entry in entries}


def write_privately(path: Path, content: bytes) -> None:
    """Whole or not at all; only its owner may read it."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.rename(path)
