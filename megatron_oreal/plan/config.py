"""What the planner is asked: a training run's own configuration, and conf/plan/ beside it."""

from dataclasses import dataclass

from megatron_oreal.config import TrainConfig


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Lengths:
    """Response lengths in tokens: lognormal, cut at the rollout's limits. Assumed until a run's response/length_mean is known."""

    median: float
    spread: float  # of the logarithm
    prompt: int  # tokens of a question with its template

    def __post_init__(self):
        _require(self.median >= 1 and self.spread >= 0 and self.prompt >= 1, f"plan.lengths: {self} must be positive")


@dataclass(frozen=True)
class Efficiency:
    """Shares of the device's figures that are reached: assumed, to be set from measurements."""

    matmul: float  # of the bf16 peak, while computing
    memory: float  # of the memory bandwidth, while decoding and updating
    network: float  # of NVLink and network bandwidth

    def __post_init__(self):
        for name in ("matmul", "memory", "network"):
            _require(0 < getattr(self, name) <= 1, f"plan.efficiency.{name}={getattr(self, name)} must be above 0 and at most 1")


@dataclass(frozen=True)
class PlanConfig:
    """What a run's configuration does not say: the machine, the model's shape where its folder is elsewhere, the workload."""

    gpus: int  # that train
    lengths: Lengths
    efficiency: Efficiency
    gpus_per_host: int = 8
    gpu: str = "h100-80g"
    shape: str | None = None  # one of SHAPES, where model.path is no folder here
    mixed: float = 0.7  # share of the questions with a right and a wrong answer: those that are trained on
    disk_gb_s: float = 10.0  # of the shared file system, for rollout.sync=disk: reads of all hosts together, and writes
    decode_overhead_ms: float = 5.0  # of the engine per token, beside reading weights and cache
    deadline_s: float = 300.0  # for building the model's stages

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


@dataclass(frozen=True, kw_only=True)
class Planned(TrainConfig):
    """conf/plan.yaml: conf/train.yaml and the planner's own section, which a training run does not know."""

    plan: PlanConfig
