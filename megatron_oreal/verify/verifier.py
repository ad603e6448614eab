"""Trajectories in as they finish, groups of verdicts out."""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from operator import length_hint
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from megatron_oreal.trajectory import Group, NoEngine, Trajectory, Verdict, Work, finish
from megatron_oreal.verify.audit import Audit
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.extraction.answer import final_answer
from megatron_oreal.verify.pool.pool import Pool
from megatron_oreal.verify.round import Round, Tally, Watcher

if TYPE_CHECKING:
    from megatron_oreal.verify.judge.judge import Judge


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
        self.watch: Callable[[int], AbstractContextManager[Watcher]] = lambda expected: nullcontext(_Unwatched())
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
        return finish(self.verifying(trajectories, length_hint(trajectories), samples, on_group, cut), _cannot_revive)

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
        with self.watch(expected) as watcher:
            one_round = Round(self._config, self._pool, self._judge, self._audit, watcher)
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

    def final_answer(self, text: str) -> str | None:
        """What of a response is compared (verify.extract); None where it has no answer."""
        return final_answer(text, self._config.extract)

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
    from megatron_oreal.verify.judge.judge import Judge  # imported late: worker processes import this package, but not aiohttp

    return Judge(config.judge)


def _arrivals(
    events: Iterable[Trajectory | NoEngine], samples: int, one_round: Round, on_group: Callable[[Group], None] | None
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


def _cannot_revive() -> None:
    raise AssertionError("no trajectory, and nobody here to say what to do about it")


def _listed(of_prompt: dict) -> str:
    return ", ".join(map(str, sorted(of_prompt)[:20])) or "none"


class _Unwatched:
    """Nobody is told."""

    def arrived(self, trajectory: Trajectory) -> None: ...

    def judged(self, verdict: Verdict) -> None: ...
