"""One run in a folder (or on a file) at a time: a file there says who works in it (host, process, since when), and goes on saying so.

No lock of the file system's: shared ones often have none, or one that holds for a single host. The holder rewrites its file every few
seconds. A holder on the same host is looked up among its processes; of one elsewhere it is enough to see whether the file still changes, so
no clocks are compared. What a crash has left is taken over without anybody's help: at once on the same host, else after SILENT_S.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from megatron_oreal.errors import NotWritten

NAME = "at_work.json"
BEAT_S = 5.0
SILENT_S = 30.0
"""So long nothing is heard of a holder on another host before it is taken for dead."""
SETTLES_S = 1.0
"""Who took the file over looks again then: of two that did so at one time, only the later is in it."""


@dataclass(frozen=True)
class Holder:
    """Who works in a folder."""

    host: str
    place: str  # of its process number: the same number elsewhere, or in another container, is another process
    process: int
    started: float  # of the process, as the kernel says: numbers are used again
    since: str
    key: str
    beat: int = 0

    @classmethod
    def myself(cls) -> "Holder":
        me, now = psutil.Process(), datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), _place(), me.pid, me.create_time(), now, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"

    @property
    def is_alive_here(self) -> bool | None:
        """None: not for us to see."""
        if self.place != _place():
            return None
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        return False


def _place() -> str:
    """Of the processes that we can see."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(namespace) if namespace.exists() else ''}"


def refuse_where_at_work(what: str, file: Path) -> None:
    """What can be seen at once, before anything is started.

    Raises:
        ValueError: somebody on this host works on `what`.
        NotWritten: its folder is none, or cannot be written to.
    """
    there = next(folder for folder in file.parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "is on a read-only file system, or not yours" if there.is_dir() else "is no folder"
        raise NotWritten(f"{what} cannot be written to: {there} {why}")
    holder = _read(file)
    if holder and holder.is_alive_here:
        raise _at_work(what, holder)


@contextmanager
def alone(what: str, file: Path, say: Callable[[str], object] = print) -> Iterator[None]:
    """Nobody else works on `what` (run_dir=DIR) while the block runs, and `file` says so; its folder is made where it is not there.

    A holder that is robbed, because it was stopped for long on another host, ends its process.

    Raises:
        ValueError: somebody else does, and who.
        NotWritten: the folder cannot be made, or written to.
    """
    mine = Holder.myself()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _take(what, file, mine, say)
    except OSError as error:
        raise NotWritten(f"{what} cannot be written to ({type(error).__name__}: {error})") from error
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(what, file, mine, ended), daemon=True, name="run lock")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join(BEAT_S)
        with suppress(OSError):
            if _is_of(file, mine):
                file.unlink()


def _take(what: str, file: Path, mine: Holder, say: Callable[[str], object]) -> None:
    while True:
        try:
            with open(file, "x", encoding="utf-8") as new:
                json.dump(asdict(mine), new)
            return
        except FileExistsError:
            _wait_for_its_end(what, file, say)
        _write(file, mine)
        time.sleep(SETTLES_S)
        if _is_of(file, mine):
            return


def _wait_for_its_end(what: str, file: Path, say: Callable[[str], object]) -> None:
    """Returns when whoever is named in the file does not work any more."""
    first, deadline, said = _read(file), time.monotonic() + SILENT_S, False
    alive = first and first.is_alive_here
    while alive is not False and time.monotonic() < deadline and file.exists():
        now = _read(file)
        if alive or (now and first and now != first):
            raise _at_work(what, now or first)
        if first and not said:
            say(f"{what} was left by {first}, which is not of this host: {SILENT_S:.0f} s will show whether it is at work")
            said = True
        first = first or now
        time.sleep(BEAT_S / 10)


def _at_work(what: str, holder: Holder) -> ValueError:
    return ValueError(f"{what} is at work: {holder}; wait for its end, stop it, or give another")


def _keep(what: str, file: Path, mine: Holder, ended: threading.Event) -> None:
    """Go on saying that we are here, until the block ends."""
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        with suppress(OSError):  # full, or away for a moment: who looks waits for several beats
            other = _read(file)
            if other and other.key != mine.key:
                sys.stderr.write(f"error: {what} was taken over by {other}; this run ends\n")
                sys.stderr.flush()
                os._exit(1)  # at once, saving nothing: the folder is another's. A signal may be ignored, as SIGINT is behind `&`
            _write(file, replace(mine, beat=beat))


def _write(file: Path, holder: Holder) -> None:
    new = file.with_name(f"{file.name}.{holder.key}")
    new.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    new.replace(file)


def _read(file: Path) -> Holder | None:
    """None: it is gone, or being written, or nobody's."""
    with suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(file.read_text(encoding="utf-8")))
    return None


def _is_of(file: Path, holder: Holder) -> bool:
    found = _read(file)
    return found is not None and found.key == holder.key
