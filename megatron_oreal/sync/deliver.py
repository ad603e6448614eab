"""Deliver: what the three ways of rollout.sync have in common. Every HTTP status is looked at; every wait has a deadline."""

from collections.abc import Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from megatron_oreal.engines.calls import Background, post_all
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import Refused
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.gather import Bucket


class Delivery(Protocol):
    """One sender's way to all engines. Between begin of the first and end of the last sender the engines serve nothing."""

    shared_by: int = 1
    """Senders whose buckets travel in one parcel."""

    written: tuple[int, bool] | None = None
    """Where it goes by files: bytes of those of the last version, and whether they are all weights rather than what changed."""

    def begin(self) -> None: ...

    def parcels(self, buckets: Iterable[Bucket]) -> Iterable[tuple[Any, Bucket]]:
        """What is to be sent, and beside it the tensors of the sender's own that are in it."""
        return ((bucket, bucket) for bucket in buckets)

    def send(self, parcel: Any, version: int) -> None: ...

    def finish(self, version: int) -> None:
        """All parcels were sent."""

    def end(self, version: int) -> None: ...

    def leave(self) -> None: ...


class Updates:
    """Opens and closes an update on engines that want that: SGLang from 0.5.21. Older ones take weights whenever they are paused.

    Which an engine is it says itself, at the first update, by knowing the call or not.
    """

    def __init__(self, engines: Sequence[Endpoint], timeout_s: float):
        self._engines, self._timeout_s = list(engines), timeout_s

    def begin(self) -> None:
        """On all engines at once; an update that an earlier sender began and never ended is ended first."""
        opened = [Background(partial(self._open, engine)) for engine in self._engines]
        for call in opened:
            call.join()
        self._engines = [engine for engine, call in zip(self._engines, opened, strict=True) if call.result()]

    def end(self) -> None:
        post_all(self._engines, "/end_weight_update", self._timeout_s)

    def _open(self, engine: Endpoint) -> bool:
        """Whether it has updates."""
        try:
            engine.post("/begin_weight_update", timeout_s=self._timeout_s)
        except Refused as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            if "already open" not in str(error):
                raise
            engine.post("/end_weight_update", timeout_s=self._timeout_s)
            engine.post("/begin_weight_update", timeout_s=self._timeout_s)
        return True


def check_way(rollout: RolloutConfig, hosts: int, on_cpu: bool) -> None:
    """Raises ValueError where rollout.sync does not lead to colocated engines, or they cannot be shared out, on so many hosts of ranks."""
    if rollout.sync == "distributed" and not on_cpu:
        raise ValueError(
            "rollout.sync=distributed: NCCL joins no two processes on one GPU, as ranks and rollout.placement=colocated engines are; "
            "set rollout.sync=tensor"
        )
    rollout.engines_of(0, hosts)
