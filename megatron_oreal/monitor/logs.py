"""Who writes to the terminal: rank 0. The other ranks' output is in files, and each warning is said once."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_oreal.errors import NotWritten


@contextmanager
def output_of_rank(run_dir: str | Path, rank: int) -> Iterator[None]:
    """Everything that is written to stdout and stderr meanwhile, by libraries in C as well, goes to <run_dir>/logs/rank-NNNNN.log.

    sys.__stderr__ remains the terminal: for the line with which a process ends that does not get to the end of this. An exception that
    passes leaves its stack in the file. A run that goes on adds to the file.

    Raises:
        NotWritten: the file cannot be written.
    """
    path = Path(run_dir) / "logs" / f"rank-{rank:05d}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise NotWritten(f"run_dir: the log of rank {rank} cannot be written: {error}") from error
    before = [os.dup(descriptor) for descriptor in (1, 2)]
    original, sys.__stderr__ = sys.__stderr__, os.fdopen(os.dup(2), "w", buffering=1)
    _turn(log.fileno(), log.fileno())
    try:
        yield
    except Exception:
        traceback.print_exc(file=log)
        raise
    finally:
        _turn(*before)
        for descriptor in before:
            os.close(descriptor)
        log.close()
        sys.__stderr__.close()
        sys.__stderr__ = original


def _turn(out: int, err: int) -> None:
    """stdout and stderr, from here on, are these files."""
    for stream, descriptor, standard in ((sys.stdout, out, 1), (sys.stderr, err, 2)):
        stream.flush()
        os.dup2(descriptor, standard)


def quiet_libraries() -> None:
    """Each warning once; and none of Megatron-Core, which warns at import of every optional kernel that is not installed."""
    warn_once()
    warnings.filterwarnings("ignore", module="megatron")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def warn_once() -> None:
    """Libraries say the same again in every step, from every place of theirs: each distinct warning is said once in a process."""
    if not isinstance(warnings.showwarning, _ShowOnce):  # the filter "once" means once a module, and anew after each catch_warnings
        warnings.showwarning = _ShowOnce(warnings.showwarning)
    last_resort, root = logging.lastResort, logging.getLogger()
    if not any(isinstance(known, _Once) for known in last_resort.filters):
        last_resort.addFilter(_Once())
    if not root.handlers:  # a library that logs without a handler would install one of its own here
        root.addHandler(last_resort)


class _ShowOnce:
    """Shows each distinct text of a category once, wherever it comes from."""

    def __init__(self, show: Callable[..., None]):
        self._show = show
        self._shown: set[tuple[type, str]] = set()

    def __call__(self, message, category, *place) -> None:
        if (category, str(message)) not in self._shown:
            self._shown.add((category, str(message)))
            self._show(message, category, *place)


class _Once(logging.Filter):
    """Lets each distinct message of a logger pass once; errors always."""

    def __init__(self):
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.name, record.getMessage()
        first = said not in self._said
        self._said.add(said)
        return first or record.levelno >= logging.ERROR
