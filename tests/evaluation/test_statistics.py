"""Intervals against enumeration and simulated coverage, pass@k and majority against brute force."""

import random
from itertools import combinations
from math import comb

import pytest

from megatron_oreal.evaluation.statistics import clustered, lengths, majority, pass_at_k, wilson


@pytest.mark.parametrize(
    ("right", "number", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(right, number, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    found = wilson(right / number, number)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.93])
def test_wilson_covers_exactly_as_often_as_it_says(share):
    """Over all results of 500 questions, weighed by their chances."""
    covered = 0.0
    for right in range(501):
        found = wilson(right / 500, 500)
        if found.low <= share <= found.high:
            covered += comb(500, right) * share**right * (1 - share) ** (500 - right)
    assert 0.93 < covered < 0.97


def test_with_one_answer_a_question_it_is_wilsons():
    shares = [1.0] * 7 + [0.0] * 13
    assert clustered(shares) == wilson(7 / 20, 20)
    assert clustered([0.0] * 5, 16) == wilson(0.0, 5)  # 80 wrong answers, but to five questions only
    few = clustered([0.25] * 6, 4)  # alike by chance, perhaps: Student's 2.571 at 5 degrees of freedom instead of 1.960
    assert (few.low, few.high) == pytest.approx(_interval(0.25, 24 * (1.960 / 2.571) ** 2), abs=1e-3)


def _interval(share: float, number: float) -> tuple[float, float]:
    found = wilson(share, number)
    return found.low, found.high


@pytest.mark.parametrize(("number", "a", "b"), [(30, 0.5, 0.5), (8, 0.5, 0.5), (8, 20, 20), (30, 0.3, 2)])
def test_answers_to_one_question_are_not_taken_for_independent(number, a, b):
    """Questions of different difficulty, Beta(a, b), 16 answers each: the interval covers; that of independent answers would not."""
    rng = random.Random(5)
    covered = naive = 0
    rounds, truth = 1500, a / (a + b)
    for _ in range(rounds):
        chances = [rng.betavariate(a, b) for _ in range(number)]
        shares = [sum(rng.random() < chance for _ in range(16)) / 16 for chance in chances]
        found, wrong = clustered(shares, 16), wilson(sum(shares) / number, 16 * number)
        covered += found.low <= truth <= found.high
        naive += wrong.low <= truth <= wrong.high
    assert 0.92 < covered / rounds < 0.98
    assert naive < covered - 0.02 * rounds


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for answers in range(1, 8):
        for right in range(answers + 1):
            verdicts = [i < right for i in range(answers)]
            for k in range(1, answers + 1):
                subsets = list(combinations(verdicts, k))
                assert pass_at_k(answers, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ValueError, match="pass@5 of 4 answers is not defined"):
        pass_at_k(4, 2, 5)


def test_majority_is_the_mean_over_ways_to_break_a_tie():
    assert majority([[True, True], [False], [False]]) == 1.0
    assert majority([[False, False], [True], [False]]) == 0.0
    assert majority([[True], [False], [False]]) == pytest.approx(1 / 3)
    assert majority([[True, True], [False, False], [False]]) == 0.5
    assert majority([[True, False, True]]) == pytest.approx(2 / 3)  # equal answers that were not judged alike
    assert majority([]) == 0.0


def test_lengths():
    found = lengths(list(range(1, 101)))
    assert (found.mean, found.median, found.p95) == (50.5, 50.5, 95.0)
    assert lengths([7]).p95 == 7.0
    assert lengths([]).mean == 0.0
