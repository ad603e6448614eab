"""What the entry points share: overrides in; one clear line and a non-zero status out when something is wrong."""

import ctypes
import dataclasses
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable

from omegaconf import OmegaConf

from megatron_oreal.config import ParallelConfig
from megatron_oreal.rollout.server import ServerError

RANKS_END_WITHIN_S = 20  # after one has failed or the job was interrupted; then SIGKILL
INTERRUPTED = 130
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # as gloo and NCCL put it


def run_command(module: str, compose: Callable, run: Callable, arguments: list[str] | None = None) -> int:
    """Compose the configuration and run it, in several local ranks where the layout needs them and nobody started any.

    `--cfg` prints the composed configuration and ends. Exit status: 0 done, 1 something failed in the run, 2 wrong input,
    130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    show_only = "--cfg" in arguments
    _quiet_libraries()
    try:
        config = compose([a for a in arguments if a != "--cfg"])
        if show_only:
            print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
            return 0
        _end_with_parent()
        ranks = _ranks_to_start(getattr(config, "parallel", None))
        if ranks > 1:
            return _run_local_ranks(module, arguments, ranks)
        run(config)
    except ValueError as error:
        return _fail(2, error)
    except ServerError as error:
        return _fail(1, error)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST_PEER):
            raise
        return _fail(1, f"lost another rank, whose own error says why ({str(error).splitlines()[0][:120]})")
    return 0


def _ranks_to_start(parallel: ParallelConfig | None) -> int:
    """How many ranks the layout needs, or 0 where this process is one of a job's ranks already."""
    started_by_a_launcher = "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1
    return 0 if parallel is None or started_by_a_launcher else parallel.tp * parallel.pp * parallel.cp * (parallel.dp or 1)


def _run_local_ranks(module: str, arguments: list[str], ranks: int) -> int:
    """Start the ranks on this host; the first failure ends them all, and its exit status is ours.

    Raises:
        ValueError: more ranks than this host has GPUs.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, start_processes

    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        raise ValueError(f"parallel: {ranks} ranks on {torch.cuda.device_count()} GPUs; start the job with srun or torchrun")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    context = start_processes(
        module,
        sys.executable,
        args={rank: ("-m", module, *arguments) for rank in range(ranks)},
        envs={rank: _rank_environment(rank, ranks, port) for rank in range(ranks)},
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        result = context.wait(period=0.2)
    except SignalException as interruption:
        context.close(interruption.sigval, RANKS_END_WITHIN_S)
        return INTERRUPTED
    if not result.failures:
        return 0
    first = min(result.failures.values(), key=lambda failure: failure.timestamp)
    return first.exitcode if first.exitcode > 0 else _fail(1, f"rank {first.local_rank} was ended by signal {-first.exitcode}")


def _rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}


def _quiet_libraries() -> None:
    """Megatron-Core warns at import, once a rank, of every optional kernel that is not installed; those lines drown ours."""
    warnings.filterwarnings("ignore", module="megatron")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _end_with_parent() -> None:
    """SIGTERM takes the same way out as Ctrl-C, so that servers are stopped; and it comes when whoever started us dies."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if "RANK" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _fail(status: int, error: object) -> int:
    print(f"error (rank {os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))}): {error}", file=sys.stderr, flush=True)
    return status
