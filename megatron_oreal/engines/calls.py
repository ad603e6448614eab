"""Calls to engines in threads: the same one to all of them at once, and any one that may outlive its caller's patience."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError

POLL_S = 0.0005


def post_all(engines: Sequence[Endpoint], path: str, timeout_s: float, bodies: dict | list[dict] | None = None) -> list:
    """The same control call to all engines at once, with one body for all or one for each; their answers in order.

    Raises:
        ServerError: of the first that refuses or does not answer in time; as soon as it does, whatever the others still wait for.
    """
    bodies = bodies if isinstance(bodies, list) else [bodies] * len(engines)
    calls = [Background(partial(engine.post, path, body, timeout_s)) for engine, body in zip(engines, bodies, strict=True)]
    pending = set(calls)
    while pending:
        for call in [c for c in pending if c.done()]:
            pending.discard(call)
            call.result()
        time.sleep(POLL_S)
    return [call.result() for call in calls]


class Background(Thread):
    """A call in a thread of its own that may outlive its caller's patience."""

    def __init__(self, call: Callable):
        super().__init__(daemon=True)
        self._call, self._value, self._error = call, None, None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised again by result()
            self._error = error
        finally:
            self._call = None  # what it holds may be waited for to be let go, see Broadcast.leave()

    def done(self) -> bool:
        return not self.is_alive()

    def result(self):
        if self._error is not None:
            raise self._error
        return self._value

    def wait_with(self, other_done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for this call and for `other_done`. A call that fails raises at once, whatever the other still waits for."""
        deadline = time.monotonic() + timeout_s
        while not (self.done() and other_done()):
            if self.done():
                self.result()
            if time.monotonic() > deadline:
                raise ServerError(f"{what} took more than rollout.sync_timeout_s={timeout_s:.0f} s")
            time.sleep(POLL_S)
        self.result()
