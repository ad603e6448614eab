"""Deliver: what the three ways of rollout.sync have in common. Every HTTP status is looked at; every wait has a deadline."""

from collections.abc import Sequence
from typing import Protocol

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.sync.gather import Bucket


class Delivery(Protocol):
    """One sender's way to all engines. Between begin of the first and end of the last sender the engines serve nothing."""

    def begin(self) -> None: ...

    def send(self, bucket: Bucket, version: int) -> None: ...

    def end(self, version: int) -> None: ...

    def leave(self) -> None: ...


def begin_update(engines: Sequence[Endpoint], timeout_s: float) -> None:
    """Open an update on all engines; one that an earlier sender began and never ended is ended first."""
    for engine in engines:
        try:
            engine.post("/begin_weight_update", timeout_s=timeout_s)
        except ServerError as error:
            if "already open" not in str(error):
                raise
            engine.post("/end_weight_update", timeout_s=timeout_s)
            engine.post("/begin_weight_update", timeout_s=timeout_s)
