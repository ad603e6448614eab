"""Keeps the copy of the weights on a host of engines without ranks (megatron-oreal serve), from which they load: rollout.sync=disk.

Rank 0 orders a version through a file in the run's folder of engines, and finds an answer there for each engine.
"""

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from megatron_oreal.engines.registry import registry_folder, write_privately
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.chain import Chain, copies_of, copy_at
from megatron_oreal.sync.host_copy import HostCopy

POLL_S = 0.1
ORDER = "copy"


class Order(msgspec.Struct, frozen=True):
    """Follow this version."""

    token: str
    link: int
    version: int
    senders: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True):
    """To an order."""

    token: str
    link: int
    error: str = ""  # why not


class Follower(threading.Thread):
    """Of one host; its engines load from `folder`."""

    def __init__(self, run_dir: str, rollout: RolloutConfig, model: str, numbers: range, host: int):
        """`numbers`: the host's engines, of the run's; `model`: where the policy started from."""
        super().__init__(name="follower", daemon=True)
        self.folder = copy_at(copies_of(run_dir, rollout), f"engines-{host}")
        self._orders, self._versions = registry_folder(Path(run_dir)), Path(run_dir) / "sync"
        self._model, self._numbers, self._done = Path(model), numbers, threading.Event()
        self._copy: HostCopy | None = None
        self._last: Order | None = None

    def run(self) -> None:
        while not self._done.wait(POLL_S):
            order = _read(self._orders / ORDER, Order)
            if order and order != self._last:
                with suppress(OSError):  # rank 0 has a deadline
                    self._obey(order)
        if self._copy:
            self._copy.remove()

    def _obey(self, order: Order) -> None:
        if self._last is None or self._last.token != order.token:
            self._copy = HostCopy(Chain(order.token, self._versions, self.folder, order.senders), self._model)
        self._last, error = order, ""
        try:
            self._copy.follow(order.version)
        except ServerError as failure:
            error = str(failure)
        for number in self._numbers:
            write_privately(_answer(self._orders, number), msgspec.json.encode(Answer(order.token, order.link, error)))

    def stop(self) -> None:
        """Gives the room back."""
        self._done.set()
        self.join()


def order(run_dir: Path, wanted: Order) -> None:
    """Rank 0's side: all followers begin."""
    write_privately(registry_folder(run_dir) / ORDER, msgspec.json.encode(wanted))


def wait_for(run_dir: Path, wanted: Order, numbers: Collection[int], timeout_s: float) -> None:
    """Until the copies of these engines have followed.

    Raises:
        ServerError: one does not in time, or says why it cannot.
    """
    deadline, waiting = time.monotonic() + timeout_s, set(numbers)
    while waiting:
        for number in list(waiting):
            answer = _read(_answer(registry_folder(run_dir), number), Answer)
            if answer and (answer.token, answer.link) == (wanted.token, wanted.link):
                if answer.error:
                    raise ServerError(f"{answer.error} (on the host of engine {number})")
                waiting.remove(number)
        if waiting and time.monotonic() > deadline:
            where = f"on the host of engine {min(waiting)}"
            raise ServerError(f"rollout.sync=disk: no new copy of the weights {where} within rollout.sync_timeout_s={timeout_s:.0f} s")
        time.sleep(POLL_S if waiting else 0)


def _answer(folder: Path, number: int) -> Path:
    return folder / f"{number}.copied"


def _read(path: Path, kind: type):
    """None where there is none, or its file system is away for a moment."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError:
        return None
