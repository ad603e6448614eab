"""What a batch script must know of a run as shell assignments: `python launch/slurm/facts.py train|sft [overrides of the run]`."""

import shlex
import sys

from megatron_oreal.config import SftConfig, TrainConfig, load
from megatron_oreal.plan.compose import asks_for_bench, compose_bench

SCHEMAS = {"train": TrainConfig, "sft": SftConfig}


def main(command: str, *overrides: str) -> int:
    """Entry point; returns the exit status: 2 where the configuration is wrong."""
    try:
        config = compose_bench(overrides) if asks_for_bench(overrides) else load(SCHEMAS[command], command, overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"RUN_DIR={shlex.quote(config.run_dir)} PLACEMENT={config.rollout.placement if config.has_engines else 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
