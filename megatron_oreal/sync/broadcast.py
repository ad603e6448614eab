"""Deliver, rollout.sync=distributed: a sender and all ranks of all engines in one gloo or NCCL group."""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_oreal.engines.calls import Background, post_all
from megatron_oreal.engines.endpoint import Endpoint, is_on_this_host, own_address
from megatron_oreal.errors import ServerError
from megatron_oreal.learn.meeting import listening_store
from megatron_oreal.network import speak_through
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.deliver import Delivery, Updates
from megatron_oreal.sync.gather import Bucket, flattened

TURN_POLL_S = 0.001
BEGUN_S = 5.0
"""For enqueueing a bucket's broadcasts; NCCL may hang in it where an engine is lost, and is aborted then, see Broadcast.leave()."""


class TicketLock:
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
                time.sleep(TURN_POLL_S)
            yield
        finally:
            self._store.add("served", 1)


class Broadcast(Delivery):
    """Buckets over one gloo or NCCL group of the sender and all ranks of all engines.

    An engine takes one bucket at a time, and all of a group's members must take the same one: senders take turns by the bucket.
    """

    def __init__(
        self, engines: Sequence[Endpoint], sizes: Sequence[int], config: RolloutConfig, sender: str, device: torch.device, turns: TicketLock
    ):
        """`sizes`: TP size of each engine."""
        self._engines, self._device, self._timeout_s, self._turns = engines, device, config.sync_timeout_s, turns
        self._updates = Updates(engines, config.sync_timeout_s)
        self._flattens = device.type != "cpu"  # one large message; on CPU a copy on each side costs more than many messages (measured: 2x)
        self._name = f"megatron_oreal_{sender}_{secrets.token_hex(4)}"  # an engine may still have the group of a run that was killed
        self._group = self._join(sizes, "gloo" if device.type == "cpu" else "nccl")

    def _join(self, sizes: Sequence[int], backend: str) -> dist.ProcessGroup:
        with self._turns.turn(self._timeout_s):  # joining blocks an engine until all others join the same group
            return self._join_now(sizes, backend)

    def _join_now(self, sizes: Sequence[int], backend: str) -> dist.ProcessGroup:
        far = next((e for e in self._engines if not is_on_this_host(e.url, self._timeout_s)), self._engines[0])
        address = own_address(far.url, self._timeout_s)  # the one that engines on other hosts reach as well
        speak_through(address)
        store = listening_store(address, self._timeout_s)
        world = 1 + sum(sizes)
        common = {"master_address": address, "master_port": store.port, "world_size": world, "group_name": self._name, "backend": backend}
        bodies = [common | {"rank_offset": 1 + sum(sizes[:index])} for index in range(len(sizes))]
        invitation = Background(partial(post_all, self._engines, "/init_weights_update_group", self._timeout_s, bodies))
        joining = Background(partial(_group_beside_the_default_one, backend, store, world, self._name, self._timeout_s))
        invitation.wait_with(joining.done, self._timeout_s, "joining the weight-update group")
        return joining.result()

    def begin(self) -> None:
        self._updates.begin()

    def send(self, bucket: Bucket, version: int) -> None:
        """Returns when the engines have loaded the bucket: while one loads it takes no other, whoever sends."""
        body = {
            "names": [name for name, _ in bucket],
            "dtypes": [str(t.dtype).removeprefix("torch.") for _, t in bucket],
            "shapes": [list(t.shape) for _, t in bucket],
            "group_name": self._name,
            "load_format": "flattened_bucket" if self._flattens else None,
            "flush_cache": False,
            "weight_version": str(version),
        }
        pieces = [flattened(bucket).to(self._device)] if self._flattens else [t.detach().contiguous() for _, t in bucket]
        failure = None
        with self._turns.turn(self._timeout_s):
            try:
                self._broadcast(pieces, body)
            except RuntimeError as error:  # a ServerError is one as well
                failure = error if isinstance(error, ServerError) else ServerError(f"broadcasting weights: {error}")
        if failure:
            # Without the frames that it came through: they hold the group, and who keeps the error would keep its connections, see leave().
            failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            raise failure

    def _broadcast(self, pieces: Sequence[Tensor], body: dict) -> None:
        answers = Background(partial(post_all, self._engines, "/update_weights_from_distributed", self._timeout_s, body))
        works: list[dist.Work] = []
        # In a thread: NCCL connects at the first broadcast, and would wait there for an engine that refused the call.
        begun = Background(partial(_broadcast_all, pieces, self._group, works))
        try:
            answers.wait_with(lambda: begun.done() and all(w.is_completed() for w in works), self._timeout_s, "broadcasting weights")
            begun.result()
            for work in works:
                work.wait()
        finally:
            begun.join(BEGUN_S)  # where an engine refuses at once it is still at it, and would hold the group

    def end(self, version: int) -> None:
        self._updates.end()

    def leave(self) -> None:
        """Closes the connections. An engine may be waiting in a broadcast that a lost one broke off: only that frees it.

        gloo closes them when nobody holds the group any more, not before: no call under way, no traceback may.
        """
        group, self._group = self._group, None
        calls = Background(partial(post_all, self._engines, "/destroy_weights_update_group", 10, {"group_name": self._name}))
        if self._device.type != "cpu":
            group.abort()  # NCCL's destruction would wait for a broadcast that never ends
        dist.destroy_process_group(group)
        del group
        calls.join(10)


def _broadcast_all(pieces: Sequence[Tensor], group: dist.ProcessGroup, works: list[dist.Work]) -> None:
    for piece in pieces:
        works.append(dist.broadcast(piece, src=0, group=group, async_op=True))


def _group_beside_the_default_one(backend: str, store, world: int, name: str, timeout_s: float) -> dist.ProcessGroup:
    """A group with processes outside of this job, as rank 0. torch's public new_group only splits the default group.

    The same call (and the same store prefix) as SGLang makes on its side. NCCL's own deadline ends the whole process: ours come first.
    """
    group, _ = dist.distributed_c10d._new_process_group_helper(
        world,
        0,
        [],
        dist.Backend(backend),
        dist.PrefixStore(name, store),
        group_name=name,
        backend_options=None,
        timeout=timedelta(seconds=timeout_s if backend == "gloo" else 10 * timeout_s),
    )
    dist.distributed_c10d._world.pg_group_ranks[group] = {i: i for i in range(world)}
    return group
