"""Trajectories in as they finish, groups of verdicts out: the rule check first, then the judge where it is to be asked."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from operator import length_hint
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from megatron_oreal.monitor.sampled import Sampled
from megatron_oreal.trajectory import Group, NoEngine, Trajectory, Verdict, Work
from megatron_oreal.verify.answer import final_answer
from megatron_oreal.verify.audit import Audit
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.pool import Pool, done

if TYPE_CHECKING:
    from megatron_oreal.verify.judge import Judge, JudgeCounts, Ruling


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


class Verifier:
    """Verifies trajectories. Use as a context manager, or call `close`."""

    def __init__(self, config: VerifyConfig, audit: Path | None = None):
        """`audit`: the file to which disagreements of rule and judge are added, for people to read.

        Raises:
            ValueError: the judge's key file or cache cannot be read.
            ServerError: there is to be a judge, and no host answers.
        """
        self._config, self._audit = config, Audit(audit)
        self._judge = _open_judge(config)
        self.tally = Tally()
        """Of the last call of verify."""
        self.watch: Callable[[int], AbstractContextManager[Sampled]] = lambda expected: nullcontext(Sampled(expected))
        """Opened in each call of verify with the number of trajectories to come (0: not known); told of each, and of each verdict."""
        self._pool = Pool(config)

    def verify(
        self,
        trajectories: Iterable[Trajectory],
        samples: int,
        on_group: Callable[[Group], None] | None = None,
        cut: Callable[[], Collection[str]] = tuple,
    ) -> list[Group]:
        """As `verifying`, of what is all trajectories."""
        work = self.verifying(trajectories, length_hint(trajectories), samples, on_group, cut)
        try:
            next(work)
        except StopIteration as end:
            return end.value
        raise AssertionError("no trajectory, and nobody here to say what to do about it")

    def verifying(
        self,
        events: Iterable[Trajectory | NoEngine],
        expected: int,
        samples: int,
        on_group: Callable[[Group], None] | None = None,
        cut: Callable[[], Collection[str]] = tuple,
    ) -> Work[list[Group]]:
        """Verdicts of trajectories as they arrive, grouped by prompt in the order of first arrival; a NoEngine among them is passed on.

        Each is given to the workers at once, and from them to the judge: verification overlaps with generation and never holds it up.
        An incomplete trajectory, or one without a final answer, is wrong without being asked about. Where there is a judge, what has
        no verdict verify.judge.wait_s after the last arrival is undecided. Undecided verdicts are left out of the group's rewards, or
        count as wrong (verify.undecided). `expected`: how many come, 0 where nobody knows. `on_group` hears of each group when its
        last verdict is there, in whichever thread brings it. `cut` says at the end of which prompts not all samples came: they are
        left out. Afterwards `tally` says what it cost.

        Raises:
            ValueError: another prompt did not get exactly the samples 0 .. samples-1; names it.
        """
        with self.watch(expected) as watched:
            one_round = _Round(self._config, self._pool, self._judge, self._audit, watched)
            try:
                arrived = yield from _arrivals(events, samples, one_round, on_group)
                for prompt_id in cut():
                    arrived.pop(prompt_id, None)
                for prompt_id, of_prompt in arrived.items():
                    if sorted(of_prompt) != list(range(samples)):
                        raise ValueError(f"prompt {prompt_id!r}: samples {_listed(of_prompt)} came, 0 to {samples - 1} were expected")
                one_round.finish([future for of_prompt in arrived.values() for _, future in of_prompt.values()])
            finally:
                self.tally = one_round.end()
        return [_group(of_prompt, samples) for of_prompt in arrived.values()]

    def compare(self, answer: str, other: str) -> "Future[Verdict]":
        """Whether two extracted answers are the same, by rule alone: what votes are counted by."""
        return self._pool.check(answer, other)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers now alive."""
        return self._pool.worker_pids

    def close(self) -> None:
        """End the workers and the judge's requests; cases not yet looked at are cancelled."""
        self._pool.close()
        if self._judge:
            self._judge.close()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _open_judge(config: VerifyConfig) -> "Judge | None":
    if not config.asks_judge:
        return None
    from megatron_oreal.verify.judge import Judge  # imported late: worker processes import this package, but not aiohttp

    return Judge(config.judge)


class _Round:
    """One call of verify."""

    def __init__(self, config: VerifyConfig, pool: Pool, judge: "Judge | None", audit: Audit, watched: Sampled):
        self._config, self._pool, self._judge, self._audit, self._watched = config, pool, judge, audit, watched
        self._over = False  # the judge is not asked any more
        self._lock = Lock()
        self._tally = Tally()

    def begin(self, trajectory: Trajectory) -> "Future[Verdict]":
        """Start what leads to the verdict; returns at once."""
        self._watched.arrived(trajectory)
        verdict = self._begin(trajectory)
        verdict.add_done_callback(lambda done: None if done.exception() else self._watched.judged(done.result()))
        return verdict

    def _begin(self, trajectory: Trajectory) -> "Future[Verdict]":
        if not trajectory.complete:
            return done(Verdict(False, "incomplete"))
        answer = final_answer(trajectory.text)
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


def _arrivals(
    events: Iterable[Trajectory | NoEngine], samples: int, one_round: _Round, on_group: Callable[[Group], None] | None
) -> "Work[dict[str, dict[int, tuple[Trajectory, Future[Verdict]]]]]":
    """Prompt id -> sample -> the trajectory, and its verdict to come; returns when the last trajectory has arrived."""
    arrived: dict[str, dict[int, tuple[Trajectory, Future[Verdict]]]] = {}
    for event in events:
        if isinstance(event, NoEngine):
            yield event
            continue
        of_prompt = arrived.setdefault(event.prompt.id, {})
        if event.index in of_prompt:
            raise ValueError(f"prompt {event.prompt.id!r}: sample {event.index} came twice")
        of_prompt[event.index] = (event, one_round.begin(event))
        if on_group and len(of_prompt) == samples:
            _when_judged(of_prompt, samples, on_group)
    return arrived


def _pass_errors_on(verdict: "Future[Verdict]", work: Callable[[], None]) -> None:
    """Whoever waits for the verdict hears of what goes wrong: a future swallows what its callbacks raise."""
    try:
        work()
    except Exception as error:
        verdict.set_exception(error)


def _group(of_prompt: "dict[int, tuple[Trajectory, Future[Verdict]]]", samples: int) -> Group:
    trajectories = [of_prompt[index][0] for index in range(samples)]
    return Group(trajectories[0].prompt, trajectories, [of_prompt[index][1].result() for index in range(samples)])


def _when_judged(of_prompt: "dict[int, tuple[Trajectory, Future[Verdict]]]", samples: int, tell: Callable[[Group], None]) -> None:
    left, lock = [samples], Lock()

    def one_more(_: Future) -> None:
        with lock:
            left[0] -= 1
            complete = left[0] == 0
        if complete:
            tell(_group(of_prompt, samples))

    for _, verdict in list(of_prompt.values()):
        verdict.add_done_callback(one_more)


def _listed(of_prompt: dict) -> str:
    return ", ".join(map(str, sorted(of_prompt)[:20])) or "none"
