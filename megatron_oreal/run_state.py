"""Where a run stands after a step, as it is saved with every checkpoint; everything but the tensors."""

from dataclasses import dataclass, field
from statistics import fmean

from megatron_oreal.evaluation.figures import Evaluation
from megatron_oreal.trajectory import TrainBatch, Unfinished


@dataclass(frozen=True)
class RunState:
    """Rank 0's is saved; the other ranks know step and version."""

    step: int = 0  # optimizer steps done
    version: int = 0  # policy version
    drawn: int = 0  # prompts drawn
    selector: str = ""  # state of selection's random generator, hexadecimal; empty: as at the start
    seconds: float = 0.0  # age of the run
    evaluations: dict[int, dict[str, Evaluation]] = field(default_factory=dict)  # step -> set -> figures
    validation: dict[int, list[float]] = field(default_factory=dict)  # step -> score of each validation question
    validation_set: str = ""  # which questions those are
    pending: TrainBatch | None = None  # sampled and selected for the next step, but not trained on yet
    unfinished: list[Unfinished] = field(default_factory=list)  # questions whose sampling goes on in the next step
    noted: dict[str, float] = field(default_factory=dict)  # metrics of that step so far
    unwritten: bool = False  # `noted` are those of `step` itself, which has no line in metrics.jsonl yet

    @property
    def score(self) -> float | None:
        """Of these very weights on the validation set; None where there is none, or they were not evaluated. No test set counts."""
        return fmean(self.validation[self.step]) if self.step in self.validation else None
