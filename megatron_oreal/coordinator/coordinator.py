"""What rank 0 alone has in an OREAL run; other ranks have no such object."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from megatron_oreal.coordinator.conductor import Conductor
from megatron_oreal.coordinator.selector import Selector
from megatron_oreal.evaluation.evaluator import Evaluator
from megatron_oreal.evaluation.history import EvaluationHistory
from megatron_oreal.monitor.metrics import origin_metrics, rollout_metrics
from megatron_oreal.monitor.recorded import FOLDER, write_step, write_weights
from megatron_oreal.monitor.reporter import Reporter
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Directive, Group, Prompt, TrainBatch, Trajectory, Work


class Source(Protocol):
    """Where a step's verified groups come from: a Sampler, or what an earlier run recorded (debug.RecordedSteps)."""

    def draw(self, step: int) -> list[Prompt]: ...

    def rollout(self, prompts: Sequence[Prompt], version: int) -> Iterable[Trajectory]: ...

    def verify(self, trajectories: Iterable[Trajectory]) -> Work[list[Group]]: ...

    def metrics(self, groups: Sequence[Group], seconds: float) -> dict[str, float]: ...

    def quiet(self) -> None: ...

    def go_on(self, version: int) -> None: ...

    def fill(self, state: RunState) -> RunState: ...

    def take_up(self, state: RunState) -> None: ...


class Coordinator(Conductor):
    """Prompts, rollout, verification and selection make a batch, beside what rank 0 does in any run."""

    def __init__(
        self,
        source: Source,
        selector: Selector,
        history: EvaluationHistory,
        reporter: Reporter,
        evaluator: Evaluator | None,
        tokenizer,
        record_to: Path | None,
    ):
        """`evaluator`: None where nothing is evaluated; `record_to`: the run's folder, where it records its trajectories."""
        super().__init__(history, reporter, evaluator)
        self._source, self._selector, self._tokenizer = source, selector, tokenizer
        self._folder = record_to / FOLDER if record_to else None
        self._begun = 0.0  # the step in progress, on time.perf_counter()

    def draw(self, step: int) -> list[Prompt]:
        """The questions of a step, which begins with them."""
        self._begun = time.perf_counter()
        return self._source.draw(step)

    def rollout(self, prompts: Sequence[Prompt], version: int) -> Iterable[Trajectory]:
        """Answers to them by the weights of `version`, and to what is left of the step before, as they finish."""
        return self._source.rollout(prompts, version)

    def verify(self, trajectories: Iterable[Trajectory]) -> Work[list[Group]]:
        """Verdicts on what `rollout` returned, as the answers they arrive; the groups of all questions whose samples all came."""
        return self._source.verify(trajectories)

    def select(self, step: int, groups: Sequence[Group]) -> Directive:
        """The batch to train on, and what can be said of the rollout."""
        if self._folder:
            write_step(self._folder, step, groups)
        batch = self._selector.select(groups)
        metrics = rollout_metrics(groups, batch.counts) | origin_metrics(groups, batch)
        return Directive(batch, metrics | self._source.metrics(groups, time.perf_counter() - self._begun))

    def quiet(self) -> None:
        """Nothing is being sampled when this returns."""
        self._source.quiet()

    def go_on(self, version: int) -> None:
        """The engines serve this version from here on, and may sample for the next step."""
        self._source.go_on(version)

    def record(self, step: int, batch: TrainBatch, token_weights: list[list[float]] | None) -> None:
        """Keep what the token RM said of the trained trajectories, where trajectories are recorded."""
        if self._folder and token_weights:
            write_weights(self._folder, step, batch.samples, token_weights, self._tokenizer)

    def fill(self, state: RunState) -> RunState:
        """With what rank 0 knows of where the run stands."""
        return self._source.fill(replace(super().fill(state), selector=self._selector.state))

    def take_up(self, state: RunState) -> None:
        """Go on with a run where it stood; a fresh state begins one."""
        self._source.take_up(state)
        if state.selector:
            self._selector.state = state.selector
        super().take_up(state)
