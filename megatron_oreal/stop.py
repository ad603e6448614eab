"""A request to save and end: SIGTERM, or SIGUSR1, which Slurm sends ahead of the time limit where `--signal=USR1@SECONDS` asks it to."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

REQUESTS = (signal.SIGTERM, signal.SIGUSR1)
P, T = ParamSpec("P"), TypeVar("T")


class StopRequested(BaseException):
    """Raised where work may be abandoned; no Exception, so that nothing takes it for a failure."""


class StopSignal:
    """Remembers that the run was asked to stop. Made in the main thread; Ctrl-C is left alone and ends a run at once."""

    def __init__(self, listens: bool = True):
        """Where it does not listen a request ends the process, as any command (see command.end_with_parent)."""
        self.requested = False
        self._may_cut = False
        for request in REQUESTS if listens else ():
            signal.signal(request, self._request)

    def _request(self, signum, frame) -> None:
        first, self.requested = not self.requested, True
        if first and self._may_cut:
            raise StopRequested

    @contextmanager
    def not_now(self) -> Iterator[None]:
        """What is done inside is not abandoned, though what it is a part of may be, right after it."""
        may_cut, self._may_cut = self._may_cut, False
        try:
            yield
        finally:
            self._may_cut = may_cut
        if may_cut and self.requested:
            raise StopRequested

    def cuts_short(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `work` returns; None where the request came before or meanwhile, and the work was abandoned."""
        try:
            self._may_cut = True
            if self.requested:
                raise StopRequested
            result = work(*args, **kwargs)
            self._may_cut = False
            return result
        except StopRequested:
            return None
        finally:
            self._may_cut = False
