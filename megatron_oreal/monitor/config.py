"""Who is told the metrics, and what is profiled."""

from dataclasses import dataclass, field


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; its run's id is kept in <run_dir>/wandb.id, so that a resumed run goes on there."""

    project: str | None = None  # None: not used
    mode: str = "offline"  # offline: into <run_dir>/wandb, for `wandb sync`; online: to the server that `wandb login` knows

    def __post_init__(self):
        _require(self.mode in ("offline", "online"), f"monitor.wandb.mode={self.mode!r} is not one of offline, online")


@dataclass(frozen=True)
class MLflowConfig:
    """MLflow; its run's id is kept in <run_dir>/mlflow.id, so that a resumed run goes on there."""

    experiment: str | None = None  # None: not used
    uri: str | None = None  # of the tracking server or store; None: <run_dir>/mlflow.db


@dataclass(frozen=True)
class MonitorConfig:
    """Trackers beside metrics.jsonl, which is always written."""

    tensorboard: bool = True  # event files in <run_dir>/tensorboard
    wandb: WandbConfig = field(default_factory=WandbConfig)
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)


@dataclass(frozen=True)
class ProfileConfig:
    """A trace of some steps, a file a rank in <run_dir>/profile."""

    kind: str | None = None  # torch: torch.profiler; None: no trace (NVTX ranges are there in any case)
    first: int = 3  # step with which it begins, counted from 1; the first two are slower than the rest
    steps: int = 1  # how many are traced
    memory: bool = True  # and a snapshot of the GPU's memory, for pytorch.org/memory_viz; nothing on a CPU

    def __post_init__(self):
        _require(self.kind in (None, "torch"), f"profile.kind={self.kind!r} is not torch or null")
        for name in ("first", "steps"):
            _require(getattr(self, name) >= 1, f"profile.{name}={getattr(self, name)} must be at least 1")
