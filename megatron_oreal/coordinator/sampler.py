"""Questions in, verified groups out: draws prompts, has them sampled, and has the answers verified as they arrive."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from math import ceil, log
from operator import length_hint
from threading import Lock

from megatron_oreal.config import TrainConfig
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.engines.engines import Engines
from megatron_oreal.monitor.metrics import sampled_tokens
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.dispatch import RetryCounts
from megatron_oreal.rollout.generate import InFlight, Rollout
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import RIGHT, WRONG, Group, Prompt, Unfinished, Work
from megatron_oreal.verify import Verifier


class Sampler:
    """Samples a step's questions; with rollout.tail the slowest go on in the next one."""

    def __init__(self, config: TrainConfig, prompts: PromptSource, rollout: Rollout, verifier: Verifier):
        self._prompts = prompts
        self._unfinished: list[Unfinished] = []  # questions that the last step cut, and that go on
        self._needed = config.data.questions_per_step
        self._asked = ceil(self._needed * config.rollout.oversample)
        self._config, self._rollout, self._verifier = config.rollout, rollout, verifier
        self._again: list[Prompt] = []  # questions that were cut, and are asked anew
        self._engine_counts = (0, 0, 0)  # lost, rejoined, restarts of the run so far

    def draw(self, step: int) -> list[Prompt]:
        """Questions for a step, besides those that go on: first those that the last one gave up, or the slow ones would never be learnt."""
        wanted = self._asked - len(self._unfinished)
        again, self._again = self._again[:wanted], self._again[wanted:]
        return again + self._prompts.draw(wanted - len(again))

    def rollout(self, prompts: Sequence[Prompt], version: int) -> InFlight:
        """Their answers as they finish, sampled by the weights of `version`; and those of the questions that go on."""
        return self._rollout.generate(prompts, version, unfinished=self._unfinished)

    def verify(self, sampling: InFlight) -> Work[list[Group]]:
        """Verdicts while others are being sampled, which ends when enough are there (RolloutCutoff). Groups with all their samples."""
        cutoff = RolloutCutoff(self._needed, self._asked, self._config, sampling.stop_early)
        with closing(sampling.events()) as events:
            groups = yield from self._verifier.verifying(events, length_hint(sampling), self._config.samples, cutoff.note, sampling.cut)
        self._leave(sampling)
        return groups

    def _leave(self, sampling: InFlight) -> None:
        """Keep what was cut, where it is to go on."""
        resumes = self._config.tail > 0
        self._unfinished = sampling.unfinished if resumes else []
        self._again += [] if resumes else [one.prompt for one in sampling.unfinished]

    def metrics(self, groups: Sequence[Group], seconds: float) -> dict[str, float]:
        """What became of the last step's rollout, which took so long, and of the engines."""
        engines = self._rollout.engines
        retry_counts, self._rollout.retry_counts = self._rollout.retry_counts, RetryCounts()
        lost, rejoined, restarts = self._since_last_rollout(engines)
        return self._verifier.tally.metrics() | {
            **self._prompts.metrics(),
            "rollout/retries": retry_counts.retries,
            "rollout/moved": retry_counts.moved,
            "rollout/engines_lost": lost,  # these three since the last rollout, in training and sync as well
            "rollout/engines_rejoined": rejoined,
            "rollout/engine_restarts": restarts,
            "rollout/engines": len(engines.serving),
            "rollout/unfinished": len(self._unfinished),
            "rollout/abandoned": len(self._again),
            "logprob/top_p_bias_bound": -log(self._config.top_p),  # see oreal.mismatch
            "time/rollout": seconds,
            "perf/rollout_tokens_per_second": sampled_tokens(groups) / seconds,
        }

    def fill(self, state: RunState) -> RunState:
        """With the place in the data."""
        return replace(state, drawn=self._prompts.drawn, unfinished=self._unfinished, again=self._again)

    def take_up(self, state: RunState) -> None:
        """Go on from there."""
        self._prompts.drawn, self._unfinished, self._again = state.drawn, list(state.unfinished), list(state.again)

    def _since_last_rollout(self, engines: Engines) -> list[int]:
        before, self._engine_counts = self._engine_counts, (engines.lost, engines.rejoined, engines.restarts)
        return [now - then for now, then in zip(self._engine_counts, before, strict=True)]


class RolloutCutoff:
    """Ends the sampling of a step when what is still being sampled cannot matter to it, where the configuration says so.

    rollout.oversample: more questions are asked than needed; those with both a right and a wrong answer are what a step learns from.
    rollout.tail: the slowest questions are left for the next step.
    """

    def __init__(self, needed: int, asked: int, rollout: RolloutConfig, stop: Callable[[], None]):
        """`needed` of the `asked` questions are to be of use; `stop` is called once, in the thread of whoever notices."""
        self._needed = needed if asked > needed else asked + 1
        self._done_is_enough = asked - int(asked * rollout.tail) if rollout.tail else asked + 1
        self._stop, self._lock, self._stopped = stop, Lock(), False
        self._done = self._useful = 0

    def note(self, group: Group) -> None:
        """One more question is verified. From any thread."""
        with self._lock:
            self._done += 1
            self._useful += {RIGHT, WRONG} <= set(group.rewards)
            enough = self._useful >= self._needed or self._done >= self._done_is_enough
            stop, self._stopped = enough and not self._stopped, self._stopped or enough
        if stop:
            self._stop()
