"""Every rank says once a second that it lives and what it does. One that falls silent, or says that it failed, ends the job.

Without this a rank that dies while the others sample for half an hour, or wait in a collective, would be noticed at their deadline.
"""

import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

BEAT_S = 1.0
VERDICT = "verdict"


class Watch(threading.Thread):
    """A rank's sign of life in a store that rank 0 keeps; rank 0 looks who is silent and writes the verdict that all read."""

    def __init__(self, rank: int, world: int, store: dist.TCPStore, folder: Path, lost_after_s: float):
        """`folder`: where a rank leaves the stacks of its threads when another's end ends it."""
        super().__init__(name="watch", daemon=True)
        self._rank, self._world, self._store = rank, world, store
        self._folder, self._lost_after_s = folder, lost_after_s
        self._stage, self._beat, self._done = "start", 0, threading.Event()
        self._seen = {other: ("", time.monotonic()) for other in range(world)}  # rank -> (last sign of life, when it changed)
        self._tell()

    def enter(self, stage: str) -> None:
        """This rank now does `stage`."""
        self._stage = stage
        with suppress(RuntimeError):  # no store, no rank 0: run() finds that out
            self._tell()

    def stop(self) -> None:
        """This rank leaves in order; to be called when all of them do."""
        self._done.set()
        self.join(5 * BEAT_S)

    def failed(self, error: BaseException) -> None:
        """Tell all ranks why this one ends."""
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        try:
            self._store.compare_set(VERDICT, "", f"rank {self._rank} failed in stage {self._stage}: {reason}")
        except RuntimeError:
            return  # rank 0 is gone, and the verdicts with it
        if self._rank == 0:
            time.sleep(3 * BEAT_S)  # the store ends with us: let the others read it

    def wait_for_verdict(self) -> None:
        """A connection broke, so somebody is gone: it is known within the deadline who, and the process ends in run()."""
        self.join(self._lost_after_s + 10 * BEAT_S)

    def run(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                self._tell()
                if self._store.check([VERDICT]):
                    self._end(self._store.get(VERDICT).decode())
                for silent in self._silent_ranks():
                    self._store.compare_set(VERDICT, "", self._lost(silent))
            except RuntimeError:  # the store went, and rank 0 with it
                if not self._done.is_set():
                    self._end(self._lost(0))

    def _tell(self) -> None:
        self._beat += 1
        self._store.set(f"beat/{self._rank}", f"{self._beat} {self._stage}")

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
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"rank-{self._rank:05d}.txt"
        with open(path, "w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        line = f"error (rank {self._rank}): {verdict}; this rank was in stage {self._stage}, its stacks: {path}"
        print(line, file=sys.__stderr__, flush=True)  # the terminal, where sys.stderr is the rank's own log
        os._exit(1)
