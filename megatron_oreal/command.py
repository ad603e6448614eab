"""What the commands share: options and overrides in; one clear line and a non-zero status out when something is wrong."""

import argparse
import ctypes
import dataclasses
import errno
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from omegaconf import OmegaConf

from megatron_oreal.config import load
from megatron_oreal.errors import Diverged, LostPeer, NotWritten, ServerError
from megatron_oreal.keys import text
from megatron_oreal.keys.nearest import hint
from megatron_oreal.launcher import INTERRUPTED, Placement, run_local_ranks
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.machine import ask_for_huge_pages, take_all_open_files
from megatron_oreal.model.architecture import check_positions, check_written
from megatron_oreal.monitor.logs import output_of_rank, quiet_libraries
from megatron_oreal.monitor.run_lock import NAME, refuse_where_at_work
from megatron_oreal.monitor.saved import find_checkpoint
from megatron_oreal.stop import REQUESTS

PR_SET_PDEATHSIG = 1
PACKAGE = Path(__file__).parent
OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),  # of file systems
    *(errno.EMFILE, errno.ENFILE, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
}
"""What a file system or a network refuses, and no fault of ours would cause; a traceback says no more than the line."""
NOBODY_READS = 141
"""Exit status where the reader of our output has gone: what a shell says of SIGPIPE."""


class Parser(argparse.ArgumentParser):
    """Of a command of `megatron-oreal`. Wrong options are a ValueError, as all wrong input."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> None:
        """Raises ValueError: one line, with the option that a misspelt one may have meant."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        raise ValueError(message + (hint(unknown[0], re.findall(r"--[\w-]+", self.format_usage())) if unknown else ""))


def local_path(text: str) -> Path:
    """Type of an option that names a file or a folder: `--out=~/x` is no ~ that a shell would expand."""
    return Path(text).expanduser()


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that is configured from conf/, as its module defines it."""

    name: str  # after `megatron-oreal`
    module: str  # after `python -m`
    about: str  # what it does, with examples: the module's docstring
    schema: type
    config: str  # conf/<config>.yaml
    main_keys: str  # those that `--help` explains, with spaces between

    def load(self, overrides: Sequence[str]):
        """The configuration. Raises ValueError as config.load."""
        return load(self.schema, self.config, overrides)

    def parser(self) -> Parser:
        """For overrides, and the options that all such commands have."""
        parser = Parser(prog=f"megatron-oreal {self.name}", description=self.about, add_help=False)
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="of conf/; group=FILE takes conf/group/FILE.yaml")
        parser.add_argument("-h", "--help", action="store_true", help="this, with the values that the overrides leave")
        parser.add_argument("--keys", action="store_true", help="all keys, their values and meanings")
        parser.add_argument("--cfg", action="store_true", help="the configuration, checked, as YAML")
        return parser

    def tells(self, parser: Parser, asked: argparse.Namespace, compose: Callable) -> bool:
        """Answers --help, --keys and --cfg; False where nothing of it was asked for."""
        known = [field.name for field in dataclasses.fields(self.schema)]
        if asked.help:
            print(f"{parser.format_help()}\n{text.main_keys(self.config, asked.overrides, known, self.main_keys.split())}")
            print(f"\nAll keys: megatron-oreal {self.name} --keys")
        elif asked.keys:
            print(text.all_keys(self.config, asked.overrides, known))
        elif asked.cfg:
            print(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(compose(asked.overrides)))))
        return asked.help or asked.keys or asked.cfg


def _check_what_is_written(config) -> None:
    """On disk, that is told before a rank imports what takes seconds. Raises ValueError."""
    if getattr(config, "parallel", None) and (config.model.path or config.has_engines):
        check_written(config.model.path, config.parallel)
    if getattr(config, "rollout", None) and getattr(config, "has_engines", True):
        check_positions(config.model.path, config.rollout.max_total_tokens)
    if hasattr(config, "resume"):
        find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume)


def run_command(
    command: Command, run: Callable, arguments: list[str] | None = None, check: Callable | None = None, compose: Callable | None = None
) -> int:
    """Compose the configuration and run it, in several local ranks where the layout needs them and nobody started any.

    `check` looks at the configuration before any rank is started, and raises ValueError where it cannot be run here; `compose`: in the
    place of command.load. The exit status, as of `guarded`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    compose = compose or command.load

    def work() -> int:
        asked = (parser := command.parser()).parse_intermixed_args(arguments)
        if command.tells(parser, asked, compose):
            return 0
        quiet_libraries()
        ask_for_huge_pages()
        take_all_open_files()
        config = compose(asked.overrides)
        end_with_parent()
        _check_what_is_written(config)
        ranks = _ranks_to_start(getattr(config, "parallel", None))
        if check:
            check(config)
        if ranks:
            refuse_where_at_work(f"run_dir={config.run_dir}", Path(config.run_dir) / NAME)
        if ranks > 1:
            return run_local_ranks(command.module, arguments, ranks)
        with _own_log(config):
            run(config)
        return 0

    return guarded(work)


def guarded(work: Callable[[], int]) -> int:
    """What `work` returns, and 0 is done; 1 something failed, 2 wrong input, 130 interrupted, each with one line; 141 nobody reads."""
    try:
        status = work()
        print(end="", flush=True)  # while it can still be told whether somebody reads
        return status
    except ValueError as error:
        return fail(2, error) if _first_of_its_host() else 2
    except (ServerError, LostPeer, NotWritten, Diverged) as error:
        return fail(1, error)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        if not nobody_reads():
            raise
        return NOBODY_READS
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        return fail(1, f"{error.strerror}: {error.filename or 'while writing or connecting'} ({_place_of(error)})")
    finally:
        if nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # what is left in the buffer goes where nothing fails


def _place_of(error: Exception) -> str:
    """The last line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PACKAGE)]
    return f"{Path(ours[-1].filename).relative_to(PACKAGE.parent)}:{ours[-1].lineno}" if ours else type(error).__name__


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose other end is closed (`| head -1`)."""
    if sys.__stdout__ is None:  # there is none (`>&-`)
        return False
    poll = select.poll()
    poll.register(sys.__stdout__.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _ranks_to_start(parallel: ParallelConfig | None) -> int:
    """How many ranks the layout needs, or 0 where this process is one of a job's ranks already.

    Raises:
        ValueError: it is one of a job of which the layout can make nothing, or of none that can be.
    """
    if parallel is None:
        return 0
    placement = Placement.detect()
    if "RANK" not in placement.variables and placement.world_size == 1:
        return parallel.ranks
    try:
        parallel.data_parallel(placement.world_size)
    except ValueError as error:
        raise ValueError(f"{error}{placement.because}") from error
    return 0


def _own_log(config) -> AbstractContextManager:
    """Where a job has several training ranks, the output of all but the first is in files; what `fail` says is not."""
    rank = Placement.detect().rank if hasattr(config, "parallel") else 0
    return output_of_rank(config.run_dir, rank) if rank else nullcontext()


def _rank() -> str | None:
    """Of a job's process, from torchrun's variable or srun's."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID"))


def _first_of_its_host() -> bool:
    """Whether this rank speaks for the ranks of its host: they read the same input, and find the same wrong with it."""
    launched = "RANK" in os.environ or _is_task_of_srun()
    return not launched or os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _is_task_of_srun() -> bool:
    """A shell of salloc has no number among the tasks."""
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


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
