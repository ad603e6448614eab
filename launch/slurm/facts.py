"""What a batch script must know of a run's configuration, as shell assignments: `python launch/slurm/facts.py [overrides of the run]`."""

import shlex
import sys

from megatron_oreal.config import TrainConfig, load


def main(overrides: list[str]) -> int:
    """Entry point; returns the exit status: 2 where the configuration is wrong."""
    try:
        config = load(TrainConfig, "train", overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"RUN_DIR={shlex.quote(config.run_dir)} PLACEMENT={config.rollout.placement} MODE={config.mode}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
