"""Every rank says once a second that it lives and what it does. One that falls silent, or says that it failed, ends the job.

Without this a rank that dies while the others sample for half an hour, or wait in a collective, would be noticed at their deadline.
A host that is cut off sends no reset: calls to it never return. So one thread talks, another one keeps the time and ends the process.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

BEAT_S = 1.0
VERDICT = "verdict"
TELL_S = 5.0  # for what is written before a process ends: a shared file system may be gone with the network
LEAVE_S = 30.0  # for a process to end, once it is on its way out


class Watch:
    """A rank's sign of life in a store that rank 0 keeps; rank 0 looks who is silent and writes the verdict that all read."""

    def __init__(self, rank: int, world: int, store: dist.TCPStore, folder: Path, lost_after_s: float):
        """`folder`: where a rank leaves the stacks of its threads when another's end ends it."""
        self._rank, self._world, self._store = rank, world, store  # the store is the talking thread's alone: a call may never return
        self._folder, self._lost_after_s = folder, lost_after_s
        self._stage, self._beat, self._rounds, self._failure = "start", 0, 0, ""
        self._news, self._told, self._done = threading.Event(), threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._seen = {other: ("", time.monotonic()) for other in range(world)}  # rank -> (last sign of life, when it changed)
        self._talk = threading.Thread(target=self._talk_to_rank_0, name="watch", daemon=True)
        self._clock = threading.Thread(target=self._keep_time, name="watch-clock", daemon=True)

    def start(self) -> None:
        """From here on this rank is watched, and watches."""
        self._talk.start()
        self._clock.start()

    def enter(self, stage: str) -> None:
        """This rank now does `stage`."""
        self._stage = stage
        self._news.set()

    def stop(self) -> None:
        """This rank leaves in order; to be called when all of them do."""
        self._done.set()
        self._news.set()
        self._talk.join(5 * BEAT_S)

    def failed(self, error: BaseException) -> None:
        """Tell all ranks why this one ends, if they can be reached."""
        self._failure = (str(error).splitlines() or [type(error).__name__])[0][:300]
        self._news.set()
        if self._told.wait(3 * BEAT_S) and self._rank == 0:
            time.sleep(3 * BEAT_S)  # the store ends with us: let the others read it

    def wait_for_verdict(self) -> None:
        """A connection broke, so somebody is gone: it is known within the deadline who, and the process ends in one of the threads."""
        self._talk.join(self._lost_after_s + 10 * BEAT_S)

    def _talk_to_rank_0(self) -> None:
        while not self._done.is_set():
            self._news.wait(BEAT_S)
            self._news.clear()
            try:
                self._round()
            except RuntimeError:  # the store went, and rank 0 with it
                if not self._done.is_set():
                    self._end(self._lost(0))
                return

    def _round(self) -> None:
        self._beat += 1
        self._store.set(f"beat/{self._rank}", f"{self._beat} {self._stage}")
        if self._failure:
            self._store.compare_set(VERDICT, "", f"rank {self._rank} failed in stage {self._stage}: {self._failure}")
            self._told.set()
        if self._store.check([VERDICT]):
            self._end(self._store.get(VERDICT).decode())
        for silent in self._silent_ranks():
            self._store.compare_set(VERDICT, "", self._lost(silent))
        self._rounds += 1

    def _keep_time(self) -> None:
        """End the process where no round gets through for too long. Counted in ticks: a process that stood still has not listened."""
        rounds, ticks = self._rounds, 0
        while not self._done.wait(BEAT_S):
            rounds, ticks = (rounds, ticks + 1) if rounds == self._rounds else (self._rounds, 0)
            if ticks * BEAT_S > self._lost_after_s:
                self._end(self._lost(0))

    def _silent_ranks(self) -> list[int]:
        """Rank 0 watches everybody; the others only remember what rank 0 did last."""
        watched = range(self._world) if self._rank == 0 else [0]
        known = [other for other in watched if self._store.check([f"beat/{other}"])]
        now = time.monotonic()
        for other, beat in zip(known, self._store.multi_get([f"beat/{other}" for other in known]), strict=True):
            if beat.decode() != self._seen[other][0]:
                self._seen[other] = (beat.decode(), now)
        return [other for other in watched if now - self._seen[other][1] > self._lost_after_s]

    def _lost(self, rank: int) -> str:
        stage = self._seen[rank][0].partition(" ")[2] or "start"
        return f"lost rank {rank} in stage {stage}: it ended, hangs, or its host is down"

    def _end(self, verdict: str) -> None:
        """Leave this rank's stacks and end the process: its main thread may be waiting for the lost rank, out of Python's reach."""
        if verdict.startswith(f"rank {self._rank} "):
            return  # our own failure: the main thread is on its way out
        with self._ending:  # never given back: one line, whichever thread comes first
            path = self._folder / f"rank-{self._rank:05d}.txt"
            where = f"its stacks: {path}" if _done_within(TELL_S, lambda: _write_stacks(path)) else "its stacks could not be written"
            say_and_end(f"error (rank {self._rank}): {verdict}; this rank was in stage {self._stage}, {where}")


def say_and_end(line: str) -> None:
    """End this process at once, whatever any of its threads waits for."""
    _done_within(TELL_S, lambda: print(line, file=sys.__stderr__, flush=True))  # the terminal, where sys.stderr is the rank's own log
    os._exit(1)


def end_within(seconds: float, line: str) -> threading.Timer:
    """Unless it is cancelled this process says the line and ends, whatever it waits for."""
    timer = threading.Timer(seconds, say_and_end, [line])
    timer.daemon = True
    timer.start()
    return timer


def leave_within(seconds: float) -> None:
    """The process ends by then, also where its interpreter waits for the network while it shuts down, and no thread of it runs any more."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115 (stays open)


def _write_stacks(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        faulthandler.dump_traceback(file, all_threads=True)


def _done_within(seconds: float, work: Callable[[], None]) -> bool:
    done = threading.Event()

    def do() -> None:
        work()
        done.set()

    threading.Thread(target=do, daemon=True).start()
    return done.wait(seconds)
