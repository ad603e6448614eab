"""Where the ranks of a job find each other: at MASTER_ADDR and MASTER_PORT, not in silence, and not for ever."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from megatron_oreal.errors import LostPeer
from megatron_oreal.launcher import LEFT_OVER, Placement, number, said
from megatron_oreal.learn.watch import BEAT_S, end_within
from megatron_oreal.network import ends_towards, interface_of, is_loopback, speak_through

SAY_AFTER_S = 10.0
LOOK_S = 0.05
NEEDED = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Met:
    """All ranks of a job are here."""

    store: dist.Store  # that all of them have
    address: str  # of rank 0, at which all reach it


def meet(placement: Placement, timeout_s: float) -> Met:
    """Wait for all ranks; gloo and NCCL then use the interface that reaches rank 0.

    Raises:
        ValueError: no place is named where to meet, it is taken, or two processes are the same rank.
        LostPeer: some rank did not come within `timeout_s`.
    """
    if absent := [name for name in NEEDED if not os.environ.get(name)]:
        raise ValueError(f"{said(placement.variables)}, but not {' and '.join(absent)}: where the ranks meet; {LEFT_OVER}")
    place = _Place(placement, os.environ["MASTER_ADDR"], number("MASTER_PORT"), timeout_s)
    deadline = end_within(timeout_s + 10 * BEAT_S, f"error (rank {placement.rank}): {place.missed('rank 0')}")  # a cut link says nothing
    try:
        return place.meet()
    finally:
        deadline.cancel()


def listening_store(address: str, timeout_s: float) -> dist.TCPStore:
    """The store of a new group, listening at this address alone; by itself it would listen at every address of this host."""
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),  # the store's to close
    )


def own_among(seen: list[str]) -> str:
    """Rank 0's own address, by those that MASTER_ADDR means on each rank's host: here it may mean 127.0.1.1, elsewhere a gateway's."""
    address = next((a for a in seen if not is_loopback(a)), seen[0])
    return address if interface_of(address) else ends_towards(address)[0]


class _Place:
    def __init__(self, placement: Placement, host: str, port: int, timeout_s: float):
        self._placement, self._host, self._port, self._timeout_s = placement, host, port, timeout_s
        self._deadline = time.monotonic() + timeout_s

    def meet(self) -> Met:
        rank, world = self._placement.rank, self._placement.world_size
        store = self._open()
        if store.add(f"came/{rank}", 1) > 1:
            raise ValueError(f"two processes say that they are rank {rank} at {self._host}:{self._port}; {said(self._variables)}")
        store.set(f"sees/{rank}", ends_towards(self._host)[1])
        if rank == 0:
            self._wait_for_all(store)
            seen = [store.get(f"sees/{other}").decode() for other in range(world)]
            store.set("address", own_among(seen))
        else:
            self._wait(lambda: store.check(["address"]), lambda: "the other ranks")
        address = store.get("address").decode()
        speak_through(ends_towards(address)[0])
        return Met(dist.PrefixStore("ranks", store), address)

    def _open(self) -> dist.Store:
        """Rank 0's, or torchrun's."""
        keeps = self._placement.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        waiting = threading.Timer(SAY_AFTER_S, _say, [self.waits_for("rank 0")])
        waiting.daemon = True
        waiting.start()
        try:
            deadline = timedelta(seconds=self._timeout_s)
            return dist.TCPStore(self._host, self._port, is_master=keeps, wait_for_workers=False, timeout=deadline)
        except RuntimeError as error:
            if keeps:
                raise ValueError(f"MASTER_PORT={self._port} cannot be listened at here ({_reason(error)}); export another one") from error
            raise LostPeer(self.missed("rank 0")) from error
        finally:
            waiting.cancel()

    def _wait_for_all(self, store: dist.Store) -> None:
        def absent() -> list[int]:
            return [other for other in range(self._placement.world_size) if not store.check([f"sees/{other}"])]

        self._wait(lambda: not absent(), lambda: _named(absent()))

    def _wait(self, met: Callable[[], bool], whom: Callable[[], str]) -> None:
        say_at = time.monotonic() + SAY_AFTER_S
        while not met():
            if time.monotonic() > self._deadline:
                raise LostPeer(self.missed(whom()))
            if time.monotonic() > say_at:
                _say(self.waits_for(whom()))
                say_at = self._deadline
            time.sleep(LOOK_S)

    @property
    def _variables(self) -> tuple[str, ...]:
        return (*self._placement.variables, *NEEDED)

    def waits_for(self, whom: str) -> str:
        """In words."""
        return f"rank {self._placement.rank} waits for {whom}{self._where}"

    def missed(self, whom: str) -> str:
        """In words."""
        return f"rank {self._placement.rank} waited in vain for {whom}{self._where}"

    @property
    def _where(self) -> str:
        return f" at {self._host}:{self._port}, parallel.timeout_s={self._timeout_s:.0f} at most: {said(self._variables)}; {LEFT_OVER}"


def _named(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:8]))}{' and others' if len(ranks) > 8 else ''}"


def _reason(error: Exception) -> str:
    """Of a port that cannot be listened at; torch's own words run over a line."""
    return "it is in use" if "EADDRINUSE" in str(error) else str(error).splitlines()[0][:160]


def _say(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)
