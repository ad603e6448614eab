"""Where processes that share no group meet: stores at one address alone, and turns taken through one."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist

from megatron_oreal.errors import ServerError

POLL_S = 0.001


class Turns:
    """One process at a time, in the order of asking; all hold a client of the same store."""

    def __init__(self, store: dist.Store):
        self._store = store

    @contextmanager
    def turn(self, timeout_s: float) -> Iterator[None]:
        """Ours while the context lasts.

        Raises:
            ServerError: it did not come in time.
        """
        ticket = self._store.add("ticket", 1) - 1
        deadline = time.monotonic() + timeout_s
        try:
            while self._store.add("served", 0) < ticket:
                if time.monotonic() > deadline:
                    raise ServerError(f"another sender's turn took more than rollout.sync_timeout_s={timeout_s:.0f} s")
                time.sleep(POLL_S)
            yield
        finally:
            self._store.add("served", 1)


def own_address(url: str, timeout_s: float) -> str:
    """The address of this host that an engine can reach: the one from which this host reaches the engine."""
    return _ends(url, timeout_s)[0]


def is_on_this_host(url: str, timeout_s: float) -> bool:
    """Whether the engine at this address listens on this very host."""
    ours, theirs = _ends(url, timeout_s)
    return ours == theirs


def _ends(url: str, timeout_s: float) -> tuple[str, str]:
    """Both addresses of a connection with the engine. Raises ServerError where there is none."""
    engine = urlsplit(url)
    try:
        with socket.create_connection((engine.hostname, engine.port or 80), timeout_s) as probe:
            return probe.getsockname()[0], probe.getpeername()[0]
    except OSError as error:
        raise ServerError(f"{url}: {error}") from error


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
