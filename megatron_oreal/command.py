"""What the entry points share: overrides in; one clear line and a non-zero status out when something is wrong."""

import ctypes
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from omegaconf import OmegaConf

from megatron_oreal.errors import LostPeer, NotWritten, ServerError
from megatron_oreal.launcher import INTERRUPTED, run_local_ranks
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.machine import ask_for_huge_pages
from megatron_oreal.model.architecture import check_written
from megatron_oreal.monitor.logs import output_of_rank, quiet_libraries
from megatron_oreal.stop import REQUESTS

PR_SET_PDEATHSIG = 1


def run_command(module: str, compose: Callable, run: Callable, arguments: list[str] | None = None, check: Callable | None = None) -> int:
    """Compose the configuration and run it, in several local ranks where the layout needs them and nobody started any.

    `--cfg` prints the composed configuration and ends. `check` looks at the configuration before any rank is started, and raises ValueError
    where it cannot be run here. Exit status: 0 done, 1 something failed in the run, 2 wrong input,
    130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    show_only = "--cfg" in arguments
    quiet_libraries()
    ask_for_huge_pages()
    try:
        config = compose([a for a in arguments if a != "--cfg"])
        if show_only:
            print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
            return 0
        end_with_parent()
        if getattr(config, "parallel", None):  # what a line of its config.json tells must not wait for what a rank imports
            check_written(config.model.path, config.parallel)
        if check:
            check(config)
        ranks = _ranks_to_start(getattr(config, "parallel", None))
        if ranks > 1:
            return run_local_ranks(module, arguments, ranks)
        with _own_log(config):
            run(config)
    except ValueError as error:
        return fail(2, error) if _first_of_its_host() else 2
    except (ServerError, LostPeer, NotWritten) as error:
        return fail(1, error)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")
    return 0


def _ranks_to_start(parallel: ParallelConfig | None) -> int:
    """How many ranks the layout needs, or 0 where this process is one of a job's ranks already."""
    started_by_a_launcher = "RANK" in os.environ or _is_task_of_srun()
    return 0 if parallel is None or started_by_a_launcher else parallel.ranks


def _own_log(config) -> AbstractContextManager:
    """Where a job has several training ranks, the output of all but the first is in files; what `fail` says is not."""
    rank = int(_rank() or 0)
    return output_of_rank(config.run_dir, rank) if rank and hasattr(config, "parallel") else nullcontext()


def _rank() -> str | None:
    """Of a job's process, from torchrun's variable or srun's."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID"))


def _first_of_its_host() -> bool:
    """Whether this rank speaks for the ranks of its host: they read the same input, and find the same wrong with it."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))) == 0


def _is_task_of_srun() -> bool:
    return int(os.environ.get("SLURM_NTASKS", 1)) > 1


def end_with_parent() -> None:
    """SIGTERM takes the same way out as Ctrl-C, so that servers are stopped; and it comes when whoever started us dies.

    A training run takes these signals for a request to save first (see stop.py).
    """

    def interrupt(signum, frame):
        for request in (*REQUESTS, signal.SIGINT):  # once is enough: what follows must not disturb the way out
            signal.signal(request, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    for request in REQUESTS:
        signal.signal(request, interrupt)
    if "RANK" in os.environ:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    elif _is_task_of_srun():  # without its slurmstepd a task would live on, unseen by Slurm; the other ranks notice at once that it is gone
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fail(status: int, error: object) -> int:
    """Say what is wrong, a line each, and which rank of a job says so; returns the status."""
    rank = _rank()
    who, lines = f"error{f' (rank {rank})' if rank else ''}", (str(error) or repr(error)).splitlines()
    sys.stderr.write("".join(f"{who}: {line}\n" for line in lines))  # at once: other ranks write to the same terminal
    sys.stderr.flush()
    return status
