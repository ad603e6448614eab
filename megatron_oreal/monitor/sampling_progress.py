"""A rollout, or an evaluation, in progress: what has come so far."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from megatron_oreal.trajectory import Trajectory, Verdict


class SamplingProgress:
    """Counts trajectories as they arrive and verdicts as they are known, from any thread."""

    def __init__(self, expected: int, changed: "Callable[[SamplingProgress], None]" = lambda state: None):
        """`expected`: how many trajectories are to come, 0 where nobody knows; `changed` is called after each."""
        self.expected, self._changed, self._lock = expected, changed, threading.Lock()
        self.trajectories = self.tokens = self.verdicts = self.right = 0
        self._started = time.perf_counter()

    def arrived(self, trajectory: Trajectory) -> None:
        """It has ended; of one that goes on from an earlier step only what was sampled since counts as tokens."""
        with self._lock:
            self.trajectories += 1
            self.tokens += len(trajectory.token_ids) - sum(span.tokens for span in trajectory.earlier)
            self._changed(self)

    def judged(self, verdict: Verdict) -> None:
        """One that is left out of the pass rate is left out here."""
        with self._lock:
            self.verdicts += not verdict.left_out
            self.right += verdict.right and not verdict.left_out
            self._changed(self)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._started

    def rates(self) -> str:
        """Tokens a second, and right ones so far: "5,120 tokens/s, right 43.2%"."""
        right = f", right {self.right / self.verdicts:.1%}" if self.verdicts else ""
        return f"{self.tokens / max(self.seconds, 1e-3):,.0f} tokens/s{right}"

    def line(self) -> str:
        """All in one: "512/1024, 5,120 tokens/s, right 43.2%, 0:05:10 left"."""
        remaining = self.seconds * (self.expected - self.trajectories) / max(self.trajectories, 1)
        left = f", {timedelta(seconds=round(remaining))} left" if self.expected and self.trajectories else ""
        return f"{self.trajectories}/{self.expected or '?'}, {self.rates()}{left}"
