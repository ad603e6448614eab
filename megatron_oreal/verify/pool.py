"""The rule check beside generation: worker processes that survive any answer."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.channel import receive, send
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.equivalence import MAX_CHARS

WORKER = "megatron_oreal.verify.worker"
START_S = 60.0
"""Deadline for a worker's start; measured 0.2 s on an idle core."""
START_ATTEMPTS = 3
CACHE_SIZE = 20_000
T = TypeVar("T")


class Pool:
    """Answers checked by rule in worker processes."""

    def __init__(self, config: VerifyConfig):
        self._config = config
        self._workers = [_Worker(config) for _ in range(config.workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for one in self._workers:
            self._idle.put(one)
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="verify")
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._lock = Lock()

    def check(self, answer: str, gold: str) -> "Future[Verdict]":
        """What the rules say of an extracted answer: right, wrong or undecided. Each case has a deadline of its own."""
        answer = answer[: MAX_CHARS * 10 + 1]
        known = self.known(answer, gold)
        return self._threads.submit(self._ask, answer, gold) if known is None else done(known)

    def known(self, answer: str, gold: str) -> Verdict | None:
        """The verdict, where there was one before."""
        with self._lock:
            return self._cache.get((answer, gold))

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers now alive."""
        return [one.pid for one in self._workers]

    def close(self) -> None:
        """End the workers; cases not yet looked at are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for one in self._workers:
            one.close()
        self._threads.shutdown(wait=True)

    def _ask(self, answer: str, gold: str) -> Verdict:
        known = self.known(answer, gold)
        if known is not None:
            return known
        one = self._idle.get(timeout=self._config.timeout_s + START_ATTEMPTS * START_S)
        try:
            verdict = one.ask(answer, gold)
        finally:
            self._idle.put(one)
        if verdict.reason not in _LOST:
            self._remember((answer, gold), verdict)
        return verdict

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        with self._lock:
            self._cache[key] = verdict
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)


_LOST = ("timeout", "crash", "memory")


def done(result: T) -> "Future[T]":
    """A future that need not be waited for."""
    future: Future[T] = Future()
    future.set_result(result)
    return future


class _Worker:
    """A worker process; killed and started afresh where it passes its deadline or dies."""

    def __init__(self, config: VerifyConfig):
        self._config = config
        self._lock = Lock()  # start against close
        self._closed = False
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, answer: str, gold: str) -> Verdict:
        """The verdict of the worker; undecided with reason timeout, memory or crash where it did not live to give one."""
        self._wait_until_ready()
        try:
            self._channel.settimeout(self._config.timeout_s)
            send(self._channel, {"answer": answer, "gold": gold})
            return Verdict(**receive(self._channel))
        except TimeoutError:
            reason = "timeout"
        except (EOFError, OSError):
            reason = "crash"
        self._restart()
        return Verdict(False, reason, decided=False)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kill()

    def _wait_until_ready(self) -> None:
        for _ in range(START_ATTEMPTS):
            if self._ready:
                return
            try:
                self._channel.settimeout(START_S)
                self._ready = receive(self._channel)["ready"]
            except (EOFError, OSError):
                self._restart()
        if not self._ready:
            raise RuntimeError(f"a verification worker did not start in {START_ATTEMPTS} attempts; try `{sys.executable} -m {WORKER}`")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", WORKER, str(theirs.fileno()), str(self._config.memory_mb), str(self._config.timeout_s)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # killed as a group
                env={**os.environ, "PYTHONPATH": _package_path()},
            )
        self._channel, self._ready = ours, False

    def _restart(self) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the verifier is closed")
            self._kill()
            self._start()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        self._channel.close()


def _package_path() -> str:
    """The folder of this package first: a worker must find it from any working directory."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
