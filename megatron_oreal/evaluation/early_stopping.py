"""Early stopping: what the scores of the validation set say of a run so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance


@dataclass(frozen=True)
class EarlyStopping:
    """Which step is the best, and for how long there was none better."""

    best: int | None = None  # step with the highest mean, the later one of two; None: nothing was evaluated
    improved: int | None = None  # last step that was better than the one before it here, beyond noise
    without: int = 0  # evaluations since then

    def is_due(self, patience: int | None) -> bool:
        """Whether the run is to end."""
        return patience is not None and self.without >= patience


def early_stopping(scores: Mapping[int, Sequence[float]], frozen: int = 0) -> EarlyStopping:
    """Where a run stands; scores: step -> [questions], the same questions every time.

    Slow progress counts in the end: a step is compared with the last one that improved, not with the one before it. Up to step `frozen`
    the policy is not trained, and cannot improve.
    """
    now = EarlyStopping()
    for step in sorted(scores):
        best = step if now.best is None or fmean(scores[step]) >= fmean(scores[now.best]) else now.best
        if now.improved is None or step <= frozen:
            now = EarlyStopping(best, step if now.improved is None else now.improved, 0)
        elif improves(scores[step], scores[now.improved]):
            now = EarlyStopping(best, step, 0)
        else:
            now = EarlyStopping(best, now.improved, now.without + 1)
    return now


def improves(after: Sequence[float], before: Sequence[float]) -> bool:
    """Whether the mean rose by more than the standard error of the difference, question by question."""
    differences = [a - b for a, b in zip(after, before, strict=True)]
    noise = sqrt(variance(differences) / len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences) > noise * (1 + 1e-9)  # one answer more that is right is exactly as much as its noise
