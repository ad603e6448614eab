"""Parts of a run by themselves: `mode` rollout_only, train_only and replay (conf/debug/) are the loop of train.py with parts left out.

rollout_only: no learner, no publisher, no evaluation: samples with the weights of model.path, verifies, and writes the trajectories.
train_only: no engines, no publisher, no evaluation: trains on recorded trajectories.
replay: trains one recorded step again, from the checkpoint before it: the metrics are those of then.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron_oreal.config import TrainConfig
from megatron_oreal.monitor.recorded import read_step
from megatron_oreal.monitor.saved import find_checkpoint, step_of
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Group, Prompt, Trajectory, Work


class RecordedSteps:
    """In the place of sampling and verification: what an earlier run wrote."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._groups: list[Group] = []  # of the step in progress

    def draw(self, step: int) -> list[Prompt]:
        """The questions of then. Raises ValueError where nothing was recorded of this step."""
        self._groups = read_step(self._folder, step)
        return [group.prompt for group in self._groups]

    def rollout(self, prompts: Sequence[Prompt], version: int) -> list[Trajectory]:
        """The answers of then."""
        return [trajectory for group in self._groups for trajectory in group.trajectories]

    def verify(self, trajectories: Sequence[Trajectory]) -> Work[list[Group]]:
        """The verdicts of then."""
        yield from ()  # no engine is waited for
        return self._groups

    def metrics(self, groups: Sequence[Group], seconds: float) -> dict[str, float]:
        """Nothing was sampled."""
        return {}

    def quiet(self) -> None:
        """Nothing is sampled."""

    def go_on(self, version: int) -> None:
        """As `quiet`."""

    def fill(self, state: RunState) -> RunState:
        """There is no place in the data."""
        return state

    def take_up(self, state: RunState) -> None:
        """As `fill`."""


def check_recorded(config: TrainConfig) -> None:
    """Raises ValueError where trajectories are missing, or the checkpoint is not the one before the step to replay."""
    checkpoints = Path(config.run_dir) / "checkpoints"
    if checkpoints.exists():
        raise ValueError(f"run_dir={config.run_dir}: holds a run, whose metrics mode={config.mode} would replace; name another folder")
    first = config.replay_step or 1
    read_step(Path(config.recorded), first)
    saved = step_of(find_checkpoint(checkpoints, config.resume))
    if config.mode == "replay" and saved != first - 1:
        raise ValueError(f"resume: to replay step {first} the checkpoint after step {first - 1} is needed, this one is of {saved}")
