"""A folder that is whole or absent: written aside, renamed at the end."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(final: Path, nbytes: int) -> Iterator[Path]:
    """A folder beside `final` to write into; it becomes `final` when the block ends, and is removed where that fails.

    What a killed process left aside is removed when `final` is written again.

    Raises:
        ValueError: one line: `final` exists, another process writes it, or the disk has no room for `nbytes`.
    """
    final = Path(os.path.abspath(final))
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"convert: {final} exists; remove it, or take another --out")
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.parent / f".{final.name}.partial"
    partial.mkdir(exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock, final)
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            _check_room(final.parent, nbytes)
            yield partial
            partial.replace(final)  # onto an empty folder, too
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _check_room(folder: Path, nbytes: int) -> None:
    free, needed = shutil.disk_usage(folder).free, nbytes * 1.01  # headers and metadata
    if free < needed:
        raise ValueError(f"convert: {folder} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed")


def _lock(folder: int, final: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"convert: another process is writing {final}") from error
