"""Questions in, verified groups out: draws prompts, has them sampled, and has the answers verified as they arrive."""

from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import replace
from math import ceil, log
from operator import length_hint
from statistics import fmean
from threading import Lock

from megatron_oreal.config import TrainConfig
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.engines.engines import Engines
from megatron_oreal.monitor.metrics import sampled_tokens
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.rollout.in_flight import InFlight
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Group, Prompt, Unfinished, Work, first_version
from megatron_oreal.verify import Verifier


class Sampler:
    """Samples questions for step after step. A step's are asked as soon as the weights that it trains are published.

    With rollout.in_flight above 1 a step gets the first that are finished, and others take their place at once: sampling of those goes on,
    under the weights of then, after the next publication (engines on the ranks' GPUs), or does not stop but for it (others). A run begins
    with the questions of one step, and with one more for each question's worth of samples that end: were all begun at one time, many would
    end at one time, and steps be long and short by turns.
    """

    def __init__(self, config: TrainConfig, prompts: PromptSource, rollout: Rollout, verifier: Verifier):
        self._config, self._prompts, self._rollout, self._verifier = config.rollout, prompts, rollout, verifier
        self._needed, self._last_step = config.data.questions_per_step, config.last_step
        self._goes_on = config.rollout.in_flight > 1
        self._asked = ceil(self._needed * config.rollout.in_flight)
        self._ended = 0  # samples, since the run began
        self._open: dict[str, Unfinished] = {}  # prompt id -> a question that was drawn and has not been given to a step, as last begun
        self._lock = Lock()  # of the draw and of what is open: both change together, and not in one thread alone
        self._sampling: InFlight | None = None  # what is under way
        self._step = self._version = 0
        self._is_sampled = False  # the next step is, as the run that goes on here was stopped before its training
        self._ages: list[int] = []  # of the questions of the last step, see first_version
        self._engine_counts = (0, 0, 0)  # lost, rejoined, restarts of the run so far

    def draw(self, step: int) -> list[Prompt]:
        """New questions for a step, besides those that are being sampled for it."""
        self._step = step
        if self._goes_on and self._sampling and self._sampling.ended:
            self.quiet()
        return [] if self._sampling else self._draw()

    def _draw(self) -> list[Prompt]:
        """As many as may be under way besides those that are."""
        with self._lock:
            under_way = sum(not one.is_whole(self._config.samples) for one in self._open.values())
            prompts = self._prompts.draw(max(min(self._wanted - under_way, self._room()), 0))
            self._open |= {prompt.id: Unfinished(prompt, []) for prompt in prompts}
        return prompts

    def _one_more(self, under_way: int) -> Prompt | None:
        """One more sample has ended: in the place of a question that is finished, or another one besides."""
        with self._lock:
            self._ended += 1
            if under_way >= self._wanted or not self._room():
                return None
            (prompt,) = self._prompts.draw(1)
            self._open[prompt.id] = Unfinished(prompt, [])
        return prompt

    @property
    def _wanted(self) -> int:
        """Questions to be under way."""
        return min(self._asked, self._needed + self._ended // self._config.samples)

    def _room(self) -> int:
        """Questions that may be drawn: those of a step, finished, may wait for it beside those that are under way, and no more."""
        return self._asked + self._needed * self._goes_on - len(self._open)

    def rollout(self, prompts: Sequence[Prompt], version: int) -> InFlight:
        """Their answers as they finish, sampled by the weights of `version`; and those of the questions that go on."""
        self._version = version
        if self._sampling is None:
            going_on = [one for name, one in self._open.items() if name not in {prompt.id for prompt in prompts}]
            more = self._one_more if self._goes_on else None
            self._sampling = self._rollout.generate(prompts, version, unfinished=going_on, more=more)
        return self._sampling

    def verify(self, sampling: InFlight) -> Work[list[Group]]:
        """Verdicts while others are being sampled, until a step has enough (see Enough). Its groups, with all their samples."""
        stops = self._config.placement == "colocated"  # engines and training take turns
        enough = Enough(self._needed, self._due(), (sampling.stop_early if stops else sampling.leave) if self._goes_on else None)
        with closing(sampling.events()) as events:
            groups = yield from self._verifier.verifying(events, length_hint(sampling), self._config.samples, enough.note, sampling.cut)
        return self._taken(sampling, groups, enough.chosen if self._goes_on else {group.prompt.id for group in groups})

    def _due(self) -> set[str]:
        """Questions that a later step would find too old: rollout.max_age."""
        begun = {name: one.first_version for name, one in self._open.items()}
        return {name for name, first in begun.items() if first is not None and self._version + 1 - first > self._config.max_age}

    def _taken(self, sampling: InFlight, groups: Sequence[Group], chosen: Collection[str]) -> list[Group]:
        """The step's; the rest goes on."""
        sampling.taken(chosen)
        if not self._goes_on:
            self._sampling = None
        elif self._config.placement == "colocated":
            self.quiet()
        with self._lock:
            for name in chosen:
                self._open.pop(name)
        step = [group for group in groups if group.prompt.id in chosen]
        first = [first_version(group.trajectories) for group in step]
        self._ages = [self._version - version for version in first if version is not None]
        return step

    def quiet(self) -> None:
        """Nothing is being sampled when this returns. What there is of open questions is kept, where other weights may go on with it."""
        sampling, self._sampling = self._sampling, None
        left = sampling.cut_all() if sampling else []
        left = left if self._goes_on else [Unfinished(one.prompt, []) for one in left]
        with self._lock:
            self._open |= {one.prompt.id: one for one in left}

    def go_on(self, version: int) -> None:
        """Begin to sample for the next step, where there is one; the engines serve `version`. An evaluation is asked beside it."""
        comes = self._step < self._last_step and (self._goes_on or not self._is_sampled)
        self._is_sampled = False
        if comes:
            self.rollout(self._draw(), version).begin()

    def close(self) -> None:
        if self._sampling:
            self._sampling.close()

    def metrics(self, groups: Sequence[Group], seconds: float) -> dict[str, float]:
        """What became of the last step's rollout, which took so long, and of the engines."""
        engines, counts = self._rollout.engines, self._rollout.retry_counts.taken()
        lost, rejoined, restarts = self._since_last_rollout(engines)
        return self._verifier.tally.metrics() | {
            **self._prompts.metrics(),
            "rollout/retries": counts.retries,
            "rollout/moved": counts.moved,
            "rollout/resumed_cached": counts.resumed_cached / counts.resumed if counts.resumed else 0.0,  # share, see rollout.keep_cache
            "rollout/engines_lost": lost,  # these three since the last rollout, in training and sync as well
            "rollout/engines_rejoined": rejoined,
            "rollout/engine_restarts": restarts,
            "rollout/engines": len(engines.serving),
            "rollout/unfinished": len(self._open),
            "rollout/age_mean": fmean(self._ages) if self._ages else 0.0,
            "rollout/age_max": max(self._ages, default=0),
            "logprob/top_p_bias_bound": -log(self._config.top_p),  # see oreal.mismatch
            "time/rollout": seconds,
            "perf/rollout_tokens_per_second": sampled_tokens(groups) / seconds,
        }

    def fill(self, state: RunState) -> RunState:
        """With the place in the data."""
        with self._lock:
            return replace(state, drawn=self._prompts.drawn, unfinished=list(self._open.values()))

    def take_up(self, state: RunState) -> None:
        """Go on from there."""
        self._step, self._prompts.drawn, self._is_sampled = state.step, state.drawn, state.pending is not None
        self._open = {one.prompt.id: one for one in state.unfinished}
        self._ended = max(len(self._open) - self._needed, 0) * self._config.samples  # so many were under way, and are again

    def _since_last_rollout(self, engines: Engines) -> list[int]:
        before, self._engine_counts = self._engine_counts, (engines.lost, engines.rejoined, engines.restarts)
        return [now - then for now, then in zip(self._engine_counts, before, strict=True)]


class Enough:
    """Which questions are a step's: those that are due, and of the others the first that are finished."""

    def __init__(self, needed: int, due: set[str], stop: Callable[[], None] | None):
        """`needed` questions make a step, or all that are `due`; `stop` is called once, in the thread of whoever notices. None: never."""
        self._needed, self._due, self._stop = needed, due, stop
        self._finished: list[str] = []
        self._lock = Lock()
        self.chosen: set[str] = set()  # once there are enough

    def note(self, group: Group) -> None:
        """One more question is verified. From any thread."""
        with self._lock:
            self._finished.append(group.prompt.id)
            enough = len(self._finished) >= self._needed and self._due <= set(self._finished)
            stop = self._stop if enough and not self.chosen else None
            if stop:
                first = [name for name in self._finished if name not in self._due]
                self.chosen = self._due | set(first[: max(self._needed - len(self._due), 0)])
        if stop:
            stop()
