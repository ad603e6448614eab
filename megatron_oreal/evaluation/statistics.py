"""Shares with their intervals, pass@k and majority votes: pure functions.

Every interval is Wilson's, at the effective number of questions: answers to one question are not independent of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import fmean, median, variance

Z = 1.959964
"""Of a two-sided interval of 95 %."""


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Lengths:
    """Of responses, in tokens."""

    mean: float
    median: float
    p95: float  # the smallest length that at least 95 % do not exceed


def wilson(share: float, number: float) -> Estimate:
    """A share of `number` independent trials (Wilson 1927); `number` need not be whole.

    Raises:
        ValueError: number is not positive.
    """
    if number <= 0:
        raise ValueError("a share of no trials has no interval")
    shrink = 1 + Z * Z / number
    center = (share + Z * Z / (2 * number)) / shrink
    half = Z / shrink * sqrt(share * (1 - share) / number + Z * Z / (4 * number * number))
    return Estimate(share, max(center - half, 0.0), min(center + half, 1.0))


def clustered(shares: Sequence[float], answers: int = 1) -> Estimate:
    """Mean of one share a question, each of `answers` answers: [questions] in [0, 1].

    The questions are what is drawn independently. Their scatter gives the variance of the mean, that the number of independent trials
    with the same variance, corrected for few questions (Korn and Graubard 1998), and Wilson's formula the interval, which stays in
    [0, 1] and has a width at 0 and 1. With one answer a question, or all questions right or all wrong, this is Wilson's interval.

    Raises:
        ValueError: no questions.
    """
    number = len(shares)
    if number == 0:
        raise ValueError("a mean of no questions has no interval")
    mean = fmean(shares)
    if answers == 1 or number == 1 or not 0 < mean < 1:
        return wilson(mean, number)
    of_mean = variance(shares) / number
    least, most = number, number * answers  # all answers to a question are alike; they are independent of each other
    trials = min(max(mean * (1 - mean) / of_mean, least), most) if of_mean > 0 else most
    return wilson(mean, trials * (Z / student(number - 1)) ** 2)


def student(freedom: int) -> float:
    """What Z is for a variance that is estimated from so few (Cornish and Fisher's series; 2.568 instead of 2.571 at 5)."""
    z = Z
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def pass_at_k(answers: int, right: int, k: int) -> float:
    """Chance that at least one of k answers is right, of `answers` drawn of which `right` are: unbiased (Chen et al. 2021, equation 1).

    Raises:
        ValueError: k is above the number of answers.
    """
    if not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {answers} answers is not defined")
    return 1 - comb(answers - right, k) / comb(answers, k)


def majority(votes: Sequence[Sequence[bool]]) -> float:
    """Chance that the answer with the most votes is right: [groups of equal answers][their verdicts].

    Among groups of the same size one is drawn; of a group whose answers were not all judged alike, an answer. No votes: 0.
    """
    most = max(map(len, votes), default=0)
    return fmean(fmean(group) for group in votes if len(group) == most) if most else 0.0


def lengths(tokens: Sequence[int]) -> Lengths:
    """[responses]; all 0 where there are none."""
    if not tokens:
        return Lengths(0.0, 0.0, 0.0)
    ordered = sorted(tokens)
    return Lengths(fmean(ordered), float(median(ordered)), float(ordered[-(-95 * len(ordered) // 100) - 1]))
