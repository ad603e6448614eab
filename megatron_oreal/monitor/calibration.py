"""How well scores tell right from wrong, and how far their probabilities are from what came true. Exact over the scores given."""

import torch
from torch import Tensor

BINS = 10


def auc(scores: Tensor, right: Tensor) -> float | None:
    """Probability that a right one's score is above a wrong one's, ties counted half; None where all are right, or all wrong.

    scores: [n] float; right: [n] bool. The Mann-Whitney statistic, by counting the wrong ones below each right one.
    """
    above, below = scores[right], scores[~right].sort().values
    if not len(above) or not len(below):
        return None
    under = torch.searchsorted(below, above).double() + torch.searchsorted(below, above, right=True).double()
    return float(under.sum() / (2 * len(above) * len(below)))


def brier(probabilities: Tensor, right: Tensor) -> float:
    """Mean squared distance of [n] probabilities of being right from the outcome: 0 is perfect, 0.25 what 1/2 for all gives."""
    return float((probabilities - right.to(probabilities)).square().mean())


def expected_calibration_error(probabilities: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Mean distance between the share of right ones and the mean probability, over bins of equal width weighted by what is in them."""
    place = (probabilities * bins).long().clamp(0, bins - 1)
    surplus = torch.zeros(bins, dtype=torch.float64).index_add(0, place, (right.double() - probabilities.double()))
    return float(surplus.abs().sum() / len(probabilities))


def calibration_metrics(scores: Tensor, right: Tensor) -> dict[str, float]:
    """Of the token RM: scores [n] of whole trajectories (the mean over their tokens, as in its loss) against the outcome [n] bool."""
    if not len(scores):
        return {}
    probabilities, area = scores.sigmoid(), auc(scores, right)
    metrics = {
        "token_rm/brier": brier(probabilities, right),
        "token_rm/calibration_error": expected_calibration_error(probabilities, right),
    }
    return metrics if area is None else metrics | {"token_rm/auc": area}
