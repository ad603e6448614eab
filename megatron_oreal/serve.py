"""Engines on hosts of their own, for rollout.placement=disaggregated, with the overrides of the training run:

    srun --ntasks-per-node=1 megatron-oreal serve experiment=oreal_7b rollout.placement=disaggregated run_dir=DIR ...

One process a host. The hosts share rollout.engines evenly; rank 0 finds them in the run's folder. Ends when the run ends.
SIGUSR1, which Slurm sends to every step of a job, asks the ranks to save: the engines stay until they have.
`python -m megatron_oreal.serve` is the same command.
"""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import TrainConfig
from megatron_oreal.engines import demand
from megatron_oreal.engines.abilities import refuse_what_engines_lack
from megatron_oreal.engines.supervisor import Supervisor
from megatron_oreal.errors import ServerError
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.rollout.config import RolloutConfig

if TYPE_CHECKING:
    from megatron_oreal.sync.follower import Follower

MAIN_KEYS = (
    "model.path run_dir rollout.placement rollout.engines rollout.tp rollout.bind rollout.sync rollout.sync_copy "
    "rollout.ready_timeout_s rollout.speculative rollout.kv_cache_dtype rollout.server_args"
)
COMMAND = Command("serve", "megatron_oreal.serve", __doc__, TrainConfig, "train", MAIN_KEYS)


@dataclass(frozen=True)
class Serving:
    """What of a run's configuration concerns its engines, and which of them are this host's."""

    run_dir: str
    model: ModelConfig
    rollout: RolloutConfig
    host: int
    hosts: int
    asked: int  # answers that each engine is asked for at one time

    def __post_init__(self):
        if self.rollout.placement != "disaggregated":
            raise ValueError(f"rollout.placement is {self.rollout.placement}, only disaggregated engines are started apart from the ranks")
        self.rollout.engines_of(self.host, self.hosts)  # raises where they cannot be shared

    @property
    def numbers(self) -> range:
        """The engines of this host."""
        return self.rollout.engines_of(self.host, self.hosts)


def compose(overrides: list[str]) -> Serving:
    """From the training run's overrides and srun's variables."""
    config = COMMAND.load(overrides)
    host, hosts = (int(os.environ.get(name, default)) for name, default in (("SLURM_PROCID", 0), ("SLURM_NTASKS", 1)))
    return Serving(config.run_dir, config.model, config.rollout, host, hosts, demand.of_training(config))


def run(config: Serving) -> None:
    """Keep this host's engines until the run is over, or until told to end.

    Raises:
        ServerError: none of them comes up.
    """
    signal.signal(signal.SIGUSR1, lambda signum, frame: None)  # not SIG_IGN, which SGLang would inherit
    model, run_dir = config.model, Path(config.run_dir)
    follower = _follower(config) if config.rollout.sync == "disk" else None
    copy = str(follower.folder) if follower else ""
    supervisor = Supervisor(config.rollout, model.path, model.dtype, run_dir, config.numbers, config.asked, copy)
    for thread in (follower, supervisor):
        if thread:
            thread.start()
    try:
        with suppress(KeyboardInterrupt):  # told to end, which is no failure: the ranks may be saving
            while supervisor.is_alive():
                supervisor.join(1)  # a signal gets its turn
                if len(supervisor.failures) == len(config.numbers):
                    raise ServerError(supervisor.failures[0])
    finally:
        supervisor.stop()
        if follower:
            follower.stop()


def _follower(config: Serving) -> "Follower":
    from megatron_oreal.sync.follower import Follower  # imported late: --help needs no torch

    return Follower(config.run_dir, config.rollout, config.model.path, config.numbers, config.host)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments, lambda serving: refuse_what_engines_lack(serving.rollout), compose)


if __name__ == "__main__":
    sys.exit(main())
