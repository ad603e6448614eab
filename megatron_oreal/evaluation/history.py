"""Every evaluation of a run so far: which are known, which step is the best, whether the run is to end."""

from collections.abc import Mapping
from statistics import fmean

from megatron_oreal.evaluation.config import EvalConfig
from megatron_oreal.evaluation.early_stopping import EarlyStopping, early_stopping
from megatron_oreal.evaluation.evaluator import Evaluated
from megatron_oreal.evaluation.figures import Evaluation


class EvaluationHistory:
    """What evaluations found, step by step."""

    def __init__(self, config: EvalConfig, validation_set: str, last_step: int, frozen_steps: int = 0):
        """`validation_set`: which questions that is, empty where there is none; in the first `frozen_steps` the policy is not trained."""
        self._config, self.validation_set, self._last_step, self._frozen_steps = config, validation_set, last_step, frozen_steps
        self.evaluations: dict[int, dict[str, Evaluation]] = {}  # step -> set -> figures
        self.validation: dict[int, list[float]] = {}  # step -> score of each validation question

    def is_due(self, step: int) -> bool:
        """Whether the weights after this step (0: before training) are to be evaluated, and were not yet."""
        return self._config.wanted(step, self._last_step) and step not in self.evaluations

    def add(self, step: int, found: Evaluated) -> None:
        """What one evaluation found."""
        if found.validation:
            self.validation[step] = found.validation
        self.evaluations[step] = found.sets

    def restore(self, evaluations: Mapping[int, dict[str, Evaluation]], validation: Mapping[int, list[float]], validation_set: str) -> bool:
        """What is known of a run that goes on. Returns whether scores were forgotten: other questions than now gave them."""
        self.evaluations = dict(evaluations)
        self.validation = dict(validation) if validation_set == self.validation_set else {}
        return len(self.validation) < len(validation)

    @property
    def early_stopping(self) -> EarlyStopping:
        """What the validation set says of the run so far."""
        return early_stopping(self.validation, self._frozen_steps)

    @property
    def run_is_to_end(self) -> bool:
        """Whether the validation set has not improved for eval.patience evaluations."""
        return self.early_stopping.is_due(self._config.patience)

    def summary(self, step: int) -> dict:
        """For summary.json of a run that ended after `step`."""
        found = {}
        if self.evaluations:
            (name, last), first = next(iter(self.evaluations[max(self.evaluations)].items())), self.evaluations[min(self.evaluations)]
            found |= {"pass_at_1_start": first[name].pass_at_1} if name in first else {}
            found |= {"pass_at_1_end": last.pass_at_1, "problems_evaluated": last.problems, "evaluated": name}
        if self.validation:
            best = self.early_stopping.best
            found |= {"best_step": best, "validation_best": fmean(self.validation[best]), "stopped_early": step < self._last_step}
        return found
