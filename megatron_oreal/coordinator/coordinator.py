"""What rank 0 alone has; other ranks have no such object."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

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

    def fill(self, state: RunState) -> RunState: ...

    def take_up(self, state: RunState) -> None: ...


class Coordinator:
    """Prompts, rollout, verification and selection make a batch; an evaluation makes figures; all of it is reported."""

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
        self.history, self.reporter = history, reporter
        self._source, self._selector, self._evaluator, self._tokenizer = source, selector, evaluator, tokenizer
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

    def evaluate(self, step: int, version: int) -> Work[Directive]:
        """Figures of the weights that the engines hold, where they are due after this step (0: before training) and unknown.

        Says whether the step is the best so far on the validation set, and whether that has not improved for long enough to end.
        """
        metrics, fresh = {}, self._evaluator is not None and self.history.is_due(step)
        if fresh:
            found = yield from self._evaluator.evaluate(version)
            self.history.add(step, found)
            metrics = found.metrics()
        best = fresh and self.history.early_stopping.best == step
        return Directive(metrics=metrics, best=best, end=self.history.run_is_to_end)

    def record(self, step: int, batch: TrainBatch, token_weights: list[list[float]] | None) -> None:
        """Keep what the token RM said of the trained trajectories, where trajectories are recorded."""
        if self._folder and token_weights:
            write_weights(self._folder, step, batch.samples, token_weights, self._tokenizer)

    def fill(self, state: RunState) -> RunState:
        """With what rank 0 knows of where the run stands."""
        past = self.history
        state = replace(state, evaluations=past.evaluations, validation=past.validation, validation_set=past.validation_set)
        return self._source.fill(replace(state, selector=self._selector.state))

    def take_up(self, state: RunState) -> None:
        """Go on with a run where it stood; a fresh state begins one."""
        self._source.take_up(state)
        if state.selector:
            self._selector.state = state.selector
        if self.history.restore(state.evaluations, state.validation, state.validation_set):
            self.reporter.say("eval.validation: other questions than before; what the earlier ones said is forgotten")
        sampled = f"; step {state.step + 1} is sampled already" if state.pending else ""
        said = f"resumed after step {state.step}, policy version {state.version}{sampled}"
        self.reporter.open(state.step if state.seconds else None, state.seconds, said)
        if state.unwritten:  # its engines went away after the step was trained, before it was over
            self.reporter.write(state.step, state.noted)

    def report_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Of an evaluation while no step is in progress."""
        for name, figures in self.history.evaluations[step].items():
            self.reporter.say(f"{name}: pass@1 at step {step}: {figures.pass_at_1:.1%} of {figures.problems}")
        self.reporter.write(step, metrics)

    def report_end(self, step: int, steps: int) -> None:
        """Of a run that ends after `step` of `steps`: why, where it is early."""
        if step < steps:
            now = self.history.early_stopping
            line = f"stopped early after step {step}: {now.without} evaluations without improvement since step {now.improved}"
            self.reporter.say(line)

    def summarize(self, step: int, seconds: float) -> None:
        """Write summary.json and show it. The run ended after `step`, `seconds` old."""
        self.reporter.summary({"steps": step, "seconds": round(seconds, 1)} | self.history.summary(step))
