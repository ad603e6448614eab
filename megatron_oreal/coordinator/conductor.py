"""What rank 0 alone has in any run: its evaluations, and its word on console, trackers and in files."""

from dataclasses import replace

from megatron_oreal.evaluation.evaluator import Evaluator
from megatron_oreal.evaluation.history import EvaluationHistory
from megatron_oreal.monitor.reporter import Reporter
from megatron_oreal.run_state import RunState
from megatron_oreal.trajectory import Directive, TrainBatch, Work


class Conductor:
    """An evaluation makes figures, and all that happens is reported. What is trained on is a subclass's to say."""

    def __init__(self, history: EvaluationHistory, reporter: Reporter, evaluator: Evaluator | None):
        """`evaluator`: None where nothing is evaluated."""
        self.history, self.reporter, self._evaluator = history, reporter, evaluator

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
        if ends := self.history.run_is_to_end:
            self.quiet()  # what was begun for a step that does not come
        return Directive(metrics=metrics, best=best, end=ends)

    def quiet(self) -> None:
        """Nothing is being sampled when this returns; nothing ever is between stages where nothing is trained on it."""

    def go_on(self, version: int) -> None:
        """The engines serve this version from here on."""

    def record(self, step: int, batch: TrainBatch, token_weights: list[list[float]] | None) -> None:
        """Keep what is to be kept of a trained step: nothing."""

    def fill(self, state: RunState) -> RunState:
        """With what rank 0 knows of where the run stands."""
        past = self.history
        return replace(state, evaluations=past.evaluations, validation=past.validation, validation_set=past.validation_set)

    def take_up(self, state: RunState) -> None:
        """Go on with a run where it stood; a fresh state begins one."""
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
