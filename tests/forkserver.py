"""A process that imports everything once and then forks for whoever asks: `python -m tests.forkserver SOCKET MODULE...`

A process of a run imports for 5 s, one of SGLang for 6 s; a copy of one that has done so runs the same code, from `python -m` on, at once.
"""

import atexit
import gc
import importlib
import os
import pickle
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from setproctitle import setproctitle

LARGEST_REQUEST = 1 << 17


@dataclass
class Request:
    """What a child is to be: as `python -m command` in this folder, after `prepare`."""

    command: list[str]  # module, arguments
    environment: dict[str, str]
    folder: str
    prepare: Callable[[], None]

    def become(self, descriptors: Sequence[int]) -> NoReturn:
        """Be it, with these for input, output and errors, to the end of the process."""
        status = 1
        try:
            self._enter(descriptors)
            runpy.run_module(self.command[0], run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            _finalize()
            os._exit(status)

    def _enter(self, descriptors: Sequence[int]) -> None:
        for descriptor, given in enumerate([os.dup(given) for given in descriptors]):
            os.dup2(given, descriptor)
            os.close(given)
        setproctitle(" ".join(["python -m", *self.command]))
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv = list(self.command)
        sys.modules.pop(self.command[0], None)
        self.prepare()


def _finalize() -> None:
    """As at the end of an interpreter."""
    with suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()


class Server:
    """One child a connection; who asked hears its process id, and then how it ended. A child whose connection breaks is hung up."""

    def __init__(self, listener: socket.socket):
        self._listener, self._events = listener, selectors.DefaultSelector()
        self._events.register(0, selectors.EVENT_READ, self._end)
        self._events.register(listener, selectors.EVENT_READ, self._accept)
        self._children: dict[socket.socket, int] = {}

    def serve(self) -> NoReturn:
        """Until our input ends."""
        while True:
            for key, _ in self._events.select():
                key.data()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._events.register(connection, selectors.EVENT_READ, partial(self._hear, connection))

    def _hear(self, connection: socket.socket) -> None:
        message, descriptors, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
        if message:
            self._fork(connection, pickle.loads(message), descriptors)
        else:
            self._events.unregister(connection)
            if connection in self._children:
                os.kill(self._children[connection], signal.SIGHUP)

    def _fork(self, connection: socket.socket, request: Request, descriptors: list[int]) -> None:
        child = os.fork()
        if child == 0:
            os.setsid()
            self._close()
            request.become(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[connection] = child
        connection.send(str(child).encode())
        ended = os.pidfd_open(child)
        self._events.register(ended, selectors.EVENT_READ, partial(self._reap, connection, ended))

    def _reap(self, connection: socket.socket, ended: int) -> None:
        _, status = os.waitpid(self._children.pop(connection), 0)
        self._events.unregister(ended)
        os.close(ended)
        with suppress(OSError):
            connection.send(str(status).encode())
        with suppress(KeyError):
            self._events.unregister(connection)
        connection.close()

    def _close(self) -> None:
        """In a child: what is the server's alone."""
        for key in list(self._events.get_map().values()):
            if key.fd:
                os.close(key.fd)
        self._events.close()

    def _end(self) -> None:
        for child in self._children.values():
            os.kill(child, signal.SIGHUP)
        sys.exit()


def main() -> None:
    setproctitle("python -m tests.forkserver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in sys.argv[2:]:
            importlib.import_module(module)
    assert threading.active_count() == 1
    gc.freeze()  # collections in a child need not touch, and so copy, what is imported
    Server(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
