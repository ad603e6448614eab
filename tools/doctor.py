"""Preflight: looks in seconds at what would stop a training run or make it crawl, before its GPUs wait.

    python tools/doctor.py [options] experiment=NAME key=value ...      with the overrides of the training run
    srun --ntasks-per-node=1 python tools/doctor.py ...                 on all nodes; MASTER_ADDR and MASTER_PORT say where they meet

One line each: ok, left out (and why), warning or error, with what to do. Alone on a node it leaves out what takes several. The first
step of launch/slurm. Exit status: 0 no error, 1 an error, 2 a configuration that cannot be used, 130 interrupted.
"""

import argparse
import sys
from dataclasses import dataclass

from megatron_oreal.command import run_command
from megatron_oreal.config import TrainConfig, load


@dataclass(frozen=True)
class Checked:
    """A run that is looked at and not started: it brings no ranks with it."""

    train: TrainConfig


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Options, and the overrides."""
    parser = argparse.ArgumentParser(prog="doctor.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, help="training ranks of the job, for the layout")
    parser.add_argument("--ranks-per-node", type=int, default=1, help="of them on each node, and so its GPUs")
    parser.add_argument("--nodes", type=lambda names: names.split(","), help="names of the nodes, in Slurm's order: n1,n2,...")
    parser.add_argument("--slowest-allreduce", type=float, metavar="GB/S", help="between two nodes (default: 5 with NCCL, 0.05 with gloo)")
    parser.add_argument("--slowest-disk", type=float, default=100.0, metavar="MB/S", help="of run_dir, written by all nodes (default: 100)")
    parser.add_argument("overrides", nargs="*", help="of the training run")
    options = parser.parse_intermixed_args(arguments)
    return options, options.overrides


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options, overrides = parse(arguments)
    status = 0

    def run(config: Checked) -> None:
        nonlocal status
        from megatron_oreal.doctor.examine import Place, Wishes, examine  # here, because it takes seconds

        wishes = Wishes(options.ranks, options.ranks_per_node, options.slowest_allreduce, options.slowest_disk)
        status = examine(config.train, wishes, Place.detect(options.nodes))

    failed = run_command("tools/doctor.py", lambda given: Checked(load(TrainConfig, "train", given)), run, overrides)
    return failed or status


if __name__ == "__main__":
    sys.exit(main())
