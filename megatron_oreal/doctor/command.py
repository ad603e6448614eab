"""Preflight: looks in seconds at what would stop a training run or make it crawl, before its GPUs wait.

    megatron-oreal doctor experiment=oreal_7b model.path=DIR data.train=FILE.jsonl      # the overrides of the training run
    megatron-oreal doctor --of sft model.path=DIR data.train=FILE.jsonl                 # and those of a supervised start
    srun --ntasks-per-node=1 megatron-oreal doctor ...       # on all nodes; MASTER_ADDR and MASTER_PORT say where they meet

One line each: ok, left out (and why), warning or error, with what to do. Alone on a node it leaves out what takes several. The first
step of launch/slurm. Exit status: 0 no error, 1 an error, 2 a configuration that cannot be used, 130 interrupted.
"""

import sys
from dataclasses import dataclass, replace

from megatron_oreal.command import Command, Parser, guarded, run_command
from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.plan.compose import asks_for_bench, compose_bench

MAIN_KEYS = (
    "model.path data.train run_dir eval.data parallel.tp parallel.pp parallel.dp rollout.placement rollout.engines rollout.tp verify.mode"
)
COMMAND = Command("doctor", "megatron_oreal.doctor.command", __doc__, TrainConfig, "train", MAIN_KEYS)
OF = {"train": COMMAND, "sft": replace(COMMAND, schema=SftConfig, config="sft")}
"""The command that is to be run -> how its configuration is read."""


@dataclass(frozen=True)
class Checked:
    """A run that is looked at and not started: it brings no ranks with it."""

    run: TrainConfig | SftConfig


def parser() -> Parser:
    """Options, and the overrides."""
    parser = COMMAND.parser()
    parser.add_argument("--of", choices=OF, default="train", help="the command that is to be run (default: train)")
    parser.add_argument("--ranks", type=int, help="training ranks of the job, for the layout")
    parser.add_argument("--ranks-per-node", type=int, default=1, help="of them on each node, and so its GPUs")
    parser.add_argument("--nodes", type=lambda names: names.split(","), help="names of the nodes, in Slurm's order: n1,n2,...")
    parser.add_argument("--slowest-allreduce", type=float, metavar="GB/S", help="between two nodes (default: 5 with NCCL, 0.05 with gloo)")
    parser.add_argument("--slowest-disk", type=float, default=100.0, metavar="MB/S", help="of run_dir, written by all nodes (default: 100)")
    return parser


def look(arguments: list[str]) -> int:
    """Read the command line and examine; returns the exit status."""
    options, status = (reader := parser()).parse_intermixed_args(arguments), 0
    command = OF[options.of]
    if command.tells(reader, options, command.load):
        return 0

    def run(config: Checked) -> None:
        nonlocal status
        from megatron_oreal.doctor.examine import Place, Wishes, examine  # here, because it takes seconds

        wishes = Wishes(options.ranks, options.ranks_per_node, options.slowest_allreduce, options.slowest_disk)
        status = examine(config.run, wishes, Place.detect(options.nodes))

    read = compose_bench if asks_for_bench(options.overrides) else command.load
    failed = run_command(command, run, options.overrides, compose=lambda overrides: Checked(read(overrides)))
    return failed or status


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: look(list(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    sys.exit(main())
