"""The parent's side of one worker process: started, asked, killed and started afresh."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Lock

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.pool.channel import receive, send

WORKER = "megatron_oreal.verify.pool.worker"
START_S = 60.0
"""Deadline for a worker's start; measured 0.2 s on an idle core."""
START_ATTEMPTS = 3
LOST = ("timeout", "crash", "memory")
"""Reasons of a worker that did not live to give a verdict; another one might."""


class WorkerProcess:
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
    root = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
