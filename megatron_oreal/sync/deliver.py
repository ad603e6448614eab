"""Deliver: what the three ways of rollout.sync have in common. Every HTTP status is looked at; every wait has a deadline."""

from collections.abc import Sequence
from typing import Protocol

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig
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


def check_way(rollout: RolloutConfig, hosts: int, on_cpu: bool) -> None:
    """Raises ValueError where rollout.sync does not lead to colocated engines, or they cannot be shared out, on so many hosts of ranks."""
    if rollout.sync == "distributed" and not on_cpu:
        raise ValueError(
            "rollout.sync=distributed: NCCL joins no two processes on one GPU, as ranks and rollout.placement=colocated engines are; "
            "set rollout.sync=tensor on one host, disk on several"
        )
    if rollout.sync == "tensor" and hosts > 1:
        raise ValueError(f"rollout.sync=tensor hands weights over within a host, the engines are on {hosts}; set rollout.sync=disk")
    rollout.engines_of(0, hosts)
