"""Who is told the metrics, and what is profiled. Defaults and meanings stand in conf/monitor/ and conf/profile/."""

from dataclasses import dataclass

from megatron_oreal.checked import Checked, Require


@dataclass(frozen=True)
class WandbConfig(Checked):
    """Weights & Biases; its run's id is kept in <run_dir>/wandb.id, so that a resumed run goes on there."""

    project: str | None
    mode: str

    def check(self, require: Require) -> None:
        require(self.mode in ("offline", "online"), f"mode={self.mode!r} is not one of offline, online")


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
class ProfileConfig(Checked):
    """A trace of some steps, a file a rank in <run_dir>/profile."""

    kind: str | None
    first: int
    steps: int
    memory: bool

    def check(self, require: Require) -> None:
        require(self.kind in (None, "torch"), f"kind={self.kind!r} is not torch or null")
        for name in ("first", "steps"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
