"""What the planner is asked: a training run's own configuration, and conf/plan/ beside it, which has the meanings."""

from dataclasses import dataclass

from megatron_oreal.checked import Checked, Require
from megatron_oreal.config import TrainConfig

BACKENDS = ("sglang", "vllm", "trtllm")
"""Engines under which operations were measured (plan.operations.silicon)."""


@dataclass(frozen=True)
class Lengths(Checked):
    """Response lengths in tokens: lognormal, cut at the rollout's limits. Assumed until a run's response/length_mean is known."""

    median: float
    spread: float
    prompt: int

    def check(self, require: Require) -> None:
        for name, least in (("median", 1), ("spread", 0), ("prompt", 1)):
            require(getattr(self, name) >= least, f"{name}={getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class Efficiency(Checked):
    """Shares of the device's figures that are reached where there are no tables; None: the device's own (megatron_oreal.devices)."""

    matmul: float | None
    memory: float | None
    network: float

    def check(self, require: Require) -> None:
        for name in ("matmul", "memory", "network"):
            share = getattr(self, name)
            require(share is None or 0 < share <= 1, f"{name}={share} must be above 0 and at most 1")


@dataclass(frozen=True)
class PlanConfig(Checked):
    """What a run's configuration does not say: the machine, the model's shape where its folder is elsewhere, the workload."""

    gpus: int
    lengths: Lengths
    efficiency: Efficiency
    gpus_per_host: int
    gpu: str
    shape: str | None
    tables: str | None
    mixed: float
    disk_gb_s: float
    changed: float
    decode_overhead_ms: float
    deadline_s: float

    def check(self, require: Require) -> None:
        require(self.tables in (None, *BACKENDS), f"tables={self.tables!r} is not one of null, {', '.join(BACKENDS)}")
        for name in ("mixed", "changed"):
            require(0 < getattr(self, name) <= 1, f"{name}={getattr(self, name)} must be above 0 and at most 1")
        for name in ("gpus", "gpus_per_host", "disk_gb_s", "decode_overhead_ms", "deadline_s"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be above 0")
        host = max(min(self.gpus, self.gpus_per_host), 1)
        require(self.gpus % host == 0, f"gpus={self.gpus} are no whole hosts of {self.gpus_per_host} GPUs")

    @property
    def hosts(self) -> int:
        """Hosts that train."""
        return max(1, self.gpus // self.gpus_per_host)


@dataclass(frozen=True)
class Planned(TrainConfig):
    """conf/plan.yaml: conf/train.yaml and the planner's own section, which a training run does not know."""

    plan: PlanConfig
