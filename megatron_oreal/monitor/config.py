"""Who is told the metrics, and what is profiled. Defaults and meanings stand in conf/monitor/ and conf/profile/."""

from dataclasses import dataclass


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; its run's id is kept in <run_dir>/wandb.id, so that a resumed run goes on there."""

    project: str | None
    mode: str

    def __post_init__(self):
        _require(self.mode in ("offline", "online"), f"monitor.wandb.mode={self.mode!r} is not one of offline, online")


@dataclass(frozen=True)
class MLflowConfig:
    """MLflow; its run's id is kept in <run_dir>/mlflow.id, so that a resumed run goes on there."""

    experiment: str | None
    uri: str | None


@dataclass(frozen=True)
class MonitorConfig:
    """Trackers beside metrics.jsonl, which is always written."""

    tensorboard: bool
    wandb: WandbConfig
    mlflow: MLflowConfig


@dataclass(frozen=True)
class ProfileConfig:
    """A trace of some steps, a file a rank in <run_dir>/profile."""

    kind: str | None
    first: int
    steps: int
    memory: bool

    def __post_init__(self):
        _require(self.kind in (None, "torch"), f"profile.kind={self.kind!r} is not torch or null")
        for name in ("first", "steps"):
            _require(getattr(self, name) >= 1, f"profile.{name}={getattr(self, name)} must be at least 1")
