"""What the planner is asked: a training run's own configuration, and conf/plan/ beside it, which has the meanings."""

from dataclasses import dataclass

from megatron_oreal.config import TrainConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Lengths:
    """Response lengths in tokens: lognormal, cut at the rollout's limits. Assumed until a run's response/length_mean is known."""

    median: float
    spread: float
    prompt: int

    def __post_init__(self):
        _require(self.median >= 1 and self.spread >= 0 and self.prompt >= 1, f"plan.lengths: {self} must be positive")


@dataclass(frozen=True)
class Efficiency:
    """Shares of the device's figures that are reached: assumed, to be set from measurements."""

    matmul: float
    memory: float
    network: float

    def __post_init__(self):
        for name in ("matmul", "memory", "network"):
            _require(0 < getattr(self, name) <= 1, f"plan.efficiency.{name}={getattr(self, name)} must be above 0 and at most 1")


@dataclass(frozen=True)
class PlanConfig:
    """What a run's configuration does not say: the machine, the model's shape where its folder is elsewhere, the workload."""

    gpus: int
    lengths: Lengths
    efficiency: Efficiency
    gpus_per_host: int
    gpu: str
    shape: str | None
    mixed: float
    disk_gb_s: float
    decode_overhead_ms: float
    deadline_s: float

    def __post_init__(self):
        _require(0 < self.mixed <= 1, f"plan.mixed={self.mixed} must be above 0 and at most 1")
        for name in ("gpus", "gpus_per_host", "disk_gb_s", "decode_overhead_ms", "deadline_s"):
            _require(getattr(self, name) > 0, f"plan.{name}={getattr(self, name)} must be above 0")
        _require(
            self.gpus % min(self.gpus, self.gpus_per_host) == 0, f"plan.gpus={self.gpus} are no whole hosts of {self.gpus_per_host} GPUs"
        )

    @property
    def hosts(self) -> int:
        """Hosts that train."""
        return max(1, self.gpus // self.gpus_per_host)


@dataclass(frozen=True)
class Planned(TrainConfig):
    """conf/plan.yaml: conf/train.yaml and the planner's own section, which a training run does not know."""

    plan: PlanConfig
