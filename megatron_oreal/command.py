"""What the entry points share: overrides in, one clear line and a non-zero status out when something is wrong."""

import dataclasses
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable

from omegaconf import OmegaConf


def run_command(module: str, compose: Callable, run: Callable, arguments: list[str] | None = None) -> int:
    """Compose the configuration, become several ranks where the layout needs them, and run.

    Exit status: 0 done, 1 something failed in the run, 2 wrong input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    show = "--cfg" in arguments
    quiet_libraries()
    try:
        config = compose([a for a in arguments if a != "--cfg"])
        if show:
            print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
            return 0
        signal.signal(signal.SIGTERM, _end_like_ctrl_c)
        relaunch(module, arguments, config)
        run(config)
    except ValueError as error:
        return _fail(2, error)
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    return 0


def relaunch(module: str, arguments: list[str], config) -> None:
    """See learn.parallel.relaunch_if_alone; evaluation has no ranks."""
    if hasattr(config, "parallel"):
        from megatron_oreal.learn.parallel import relaunch_if_alone

        relaunch_if_alone(module, arguments, config.parallel)


def quiet_libraries() -> None:
    """Megatron-Core warns at import, once a rank, of every optional kernel that is not installed; those lines drown ours."""
    warnings.filterwarnings("ignore", module="megatron")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _end_like_ctrl_c(signum, frame):
    """SIGTERM takes the same way out as Ctrl-C, so that servers are stopped on the way."""
    raise KeyboardInterrupt


def _fail(status: int, error: object) -> int:
    rank = os.environ.get("RANK", "0")
    print(f"error (rank {rank}): {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return status
