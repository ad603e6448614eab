"""Engines and whole runs that have their imports behind them: forked (see forkserver.py), in place of those of launcher.start_module."""

import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path

import torch.multiprocessing

from megatron_oreal import launcher
from tests.forkserver import LARGEST_REQUEST, Request

ROOT = Path(__file__).parents[1]
BY_HAND = launcher.start_module
ENGINE = "megatron_oreal.engines.sglang_cpu"
FOR_ENGINES = (ENGINE, "sglang.launch_server", "sglang.srt.entrypoints.http_server", "sglang.srt.models.registry")
FOR_RUNS = (
    "megatron_oreal.evaluation.checkpoint",
    "megatron_oreal.learn.checkpoint",
    "megatron_oreal.learn.step",
    "megatron_oreal.parts",
    "megatron_oreal.sync.publisher",
    "megatron_oreal.train",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
)


def rank_context() -> BaseContext:
    """Of processes that call a function of a test: forked by multiprocessing's own server, which has imported everything once.

    As fast as forking the test process, which may not be forked because threads of it (HTTP, gloo, stores) may hold locks at that moment.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "safetensors.torch", *FOR_RUNS])
    return context


class ForkServers:
    """One for engines, one for runs; each starts when it is first asked, and ends with us."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()  # nobody else's, and short, as the path of a socket must be
        self._engines = _ForkServer(Path(self._folder.name) / "engines", FOR_ENGINES)
        self._runs = _ForkServer(Path(self._folder.name) / "runs", FOR_RUNS)

    def start_module(self, module: str, arguments: Sequence[str], **options) -> subprocess.Popen:
        """In place of launcher.start_module, but not where CUDA is: who has looked for a GPU may not fork."""
        if torch.cuda.is_available():
            return BY_HAND(module, arguments, **options)
        if module == ENGINE:
            return Forked(self._engines.address, module, arguments, **options)
        return Forked(self._runs.address, module, arguments, partial(_take_engines_from, self._engines.address), **options)

    def stop(self) -> None:
        """End them, and with them whatever of their children still lives."""
        self._engines.stop()
        self._runs.stop()
        self._folder.cleanup()


class _ForkServer:
    def __init__(self, path: Path, modules: Sequence[str]):
        self._path, self._modules = str(path), modules
        self._process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        """Where to ask; who asks waits until all is imported."""
        if self._process is None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, open(self._path + ".log", "wb") as log:
                listener.bind(self._path)
                listener.listen(64)
                command = [sys.executable, "-m", "tests.forkserver", str(listener.fileno()), __name__, *self._modules]
                streams = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
                self._process = subprocess.Popen(command, pass_fds=[listener.fileno()], cwd=ROOT, **streams)
        return self._path

    def stop(self) -> None:
        if self._process:
            self._process.stdin.close()
            self._process.wait(20)


class _Started(subprocess.Popen):
    """As Popen of `python -m module arguments`, started otherwise."""

    def __init__(self, module: str, arguments: Sequence[str], prepare: Callable[[], None], **options):
        self._prepare = prepare
        super().__init__([module, *map(str, arguments)], **options)

    def _execute_child(self, command, executable, preexec_fn, close_fds, pass_fds, cwd, env, info, flags, shell, *rest):
        pipes = rest[:6]  # (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite), -1 where there is none
        ends = [given if given != -1 else ours for ours, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = Request(command, dict(os.environ if env is None else env), str(cwd or os.getcwd()), self._prepare)
        self.pid, self._child_created = self._start(request, ends), True
        self._close_pipe_fds(*pipes)


class Forked(_Started):
    """Its parent is the fork server, which tells us how it ends, and hangs it up when we are gone; `preexec_fn` has no place here."""

    def __init__(self, address: str, module: str, arguments: Sequence[str], prepare: Callable[[], None] = tuple, **options):
        self._address, self._connection = address, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(module, arguments, prepare, **options)

    def _start(self, request: Request, descriptors: list[int]) -> int:
        try:
            self._connection.connect(self._address)
            socket.send_fds(self._connection, [pickle.dumps(request)], descriptors)
            return int(self._connection.recv(LARGEST_REQUEST))
        except (OSError, ValueError) as error:
            raise ChildProcessError(f"no fork server: {Path(self._address + '.log').read_text()[-2000:]}") from error

    def _internal_poll(self, _deadstate=None) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                self._handle_exitstatus(ended[1])
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        try:
            said = self._connection.recv(LARGEST_REQUEST, socket.MSG_DONTWAIT if flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        return self.pid, int(said or signal.SIGKILL)  # it says nothing where the server itself was killed


class Copied(_Started):
    """A copy of ourselves, who may have no threads, and our child."""

    def _start(self, request: Request, descriptors: list[int]) -> int:
        assert threading.active_count() == 1
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            request.become(descriptors)
        return child


def _take_engines_from(address: str) -> None:
    launcher.start_module = partial(_start_module, address)


def _start_module(engines: str, module: str, arguments: Sequence[str], **options) -> subprocess.Popen:
    return Forked(engines, module, arguments, **options) if module == ENGINE else Copied(module, arguments, tuple, **options)
