"""One call of verify: what leads from a trajectory to its verdict. The rules first, then the judge where it is to be asked."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from megatron_oreal.trajectory import Trajectory, Verdict
from megatron_oreal.verify.audit import Audit
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.extraction.answer import final_answer
from megatron_oreal.verify.pool.pool import Pool, done

if TYPE_CHECKING:
    from megatron_oreal.verify.judge.judge import Judge, JudgeCounts, Ruling


@dataclass
class Tally:
    """What one call of verify cost, and what came of the judge."""

    tail_s: float = 0.0  # from the arrival of the last trajectory to the last verdict
    judged: Counter = field(default_factory=Counter)  # trajectories that the judge was asked about: asked, right, undecided, known
    disagreements: int = 0  # of them, those where rule and judge both decided, and not alike
    requests: "JudgeCounts | None" = None  # None: there is no judge

    def metrics(self) -> dict[str, float]:
        """Under the names of metrics.jsonl."""
        if self.requests is None:
            return {"time/verify_tail": self.tail_s}
        return {
            "time/verify_tail": self.tail_s,
            "verify/judge_asked": self.judged["asked"],
            "verify/judge_right": self.judged["right"],
            "verify/judge_undecided": self.judged["undecided"],
            "verify/cache_hits": self.judged["known"],
            "verify/disagreements": self.disagreements,
            "verify/judge_requests": self.requests.requests,
            "verify/judge_failures": self.requests.failures,
            "verify/judge_unclear": self.requests.unclear,
        }


class Watcher(Protocol):
    """Told of a call of verify as it goes on, from any thread."""

    def arrived(self, trajectory: Trajectory) -> None:
        """A trajectory has come."""

    def judged(self, verdict: Verdict) -> None:
        """A verdict is there."""


class Round:
    """One call of verify."""

    def __init__(self, config: VerifyConfig, pool: Pool, judge: "Judge | None", audit: Audit, watcher: Watcher):
        self._config, self._pool, self._judge, self._audit, self._watcher = config, pool, judge, audit, watcher
        self._over = False  # the judge is not asked any more
        self._lock = Lock()
        self._tally = Tally()

    def begin(self, trajectory: Trajectory) -> "Future[Verdict]":
        """Start what leads to the verdict; returns at once."""
        self._watcher.arrived(trajectory)
        verdict = self._begin(trajectory)
        verdict.add_done_callback(lambda done: None if done.exception() else self._watcher.judged(done.result()))
        return verdict

    def _begin(self, trajectory: Trajectory) -> "Future[Verdict]":
        if not trajectory.complete:
            return done(Verdict(False, "incomplete"))
        answer = final_answer(trajectory.text, self._config.extract)
        if answer is None:
            return done(Verdict(False, "no answer"))
        verdict: Future[Verdict] = Future()
        self._pool.check(answer, trajectory.prompt.gold_answer).add_done_callback(
            lambda rule: _pass_errors_on(verdict, lambda: self._checked(trajectory, answer, rule.result(), verdict))
        )
        return verdict

    def finish(self, verdicts: "list[Future[Verdict]]") -> None:
        """Return when all are there; nothing arrives any more."""
        started = time.perf_counter()
        if self._judge:
            _, late = wait(verdicts, timeout=self._config.judge.wait_s)
            if late:
                self._stop_asking()
        wait(verdicts)  # what the rules still look at has a deadline each, and the judge has given up the rest
        self._tally.tail_s = time.perf_counter() - started

    def end(self) -> Tally:
        """Whatever became of it: nothing is asked any more."""
        self._stop_asking()
        if self._judge:
            self._tally.requests = self._judge.take_counts()
        return self._tally

    def _stop_asking(self) -> None:
        with self._lock:
            self._over = True
        if self._judge:
            self._judge.give_up()

    def _checked(self, trajectory: Trajectory, answer: str, rule: Verdict, verdict: "Future[Verdict]") -> None:
        """The rules have spoken."""
        if not self._asks(rule):
            verdict.set_result(self._told(rule))
            return
        prompt = trajectory.prompt
        with self._lock:
            if self._over:
                verdict.set_result(self._told(Verdict(False, "judge: late", decided=False)))
                return
            ruling = self._judge.ask(prompt.question, prompt.gold_answer, answer)
        ruling.add_done_callback(
            lambda done: _pass_errors_on(verdict, lambda: self._judged(trajectory, answer, rule, done.result(), verdict))
        )

    def _asks(self, rule: Verdict) -> bool:
        if self._config.mode == "rule_then_judge":
            return not rule.decided if self._config.judge_on == "undecided" else not rule.right
        return self._config.mode == "judge"

    def _judged(self, trajectory: Trajectory, answer: str, rule: Verdict, ruling: "Ruling", verdict: "Future[Verdict]") -> None:
        """The judge has spoken."""
        differ = rule.decided and ruling.right is not None and ruling.right != rule.right
        with self._lock:
            self._tally.judged.update(asked=1, right=ruling.right is True, undecided=ruling.right is None, known=ruling.known)
            self._tally.disagreements += differ
        if differ:
            self._audit.add(trajectory, answer, rule, ruling)
        verdict.set_result(self._told(Verdict(ruling.right is True, ruling.reason, decided=ruling.right is not None)))

    def _told(self, verdict: Verdict) -> Verdict:
        """An undecided verdict as verify.undecided wants it."""
        if verdict.decided or self._config.undecided == "wrong":
            return verdict
        return Verdict(False, verdict.reason, decided=False, left_out=True)


def _pass_errors_on(verdict: "Future[Verdict]", work: Callable[[], None]) -> None:
    """Whoever waits for the verdict hears of what goes wrong: a future swallows what its callbacks raise."""
    try:
        work()
    except Exception as error:
        verdict.set_exception(error)
