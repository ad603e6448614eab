"""Every trajectory in exactly one micro-batch, every rank with as many; full micro-batches, level ranks, whatever the order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_oreal.learn.packing import WORTH_OPENING, Cost, partition
from tools.bench_packing import BUDGET, QWEN_7B, draw_lengths

COST = Cost(linear=3.0, quadratic=0.05)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 100), max_size=60), dp=st.integers(1, 8), multiple_of=st.integers(1, 4))
def test_a_partition_has_every_sample_once_within_the_budget_and_equal_counts(lengths, dp, multiple_of):
    spread = partition(lengths, dp, 100, COST, multiple_of)
    assert len(spread) == dp
    assert len({len(rank) for rank in spread}) == 1
    assert len(spread[0]) >= 1
    assert len(spread[0]) % multiple_of == 0
    assert sorted(i for rank in spread for micro in rank for i in micro) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in micro) <= 100 for rank in spread for micro in rank)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 100), max_size=40), dp=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_partition_does_not_depend_on_the_order_of_the_samples(lengths, dp, seed):
    shuffled = random.Random(seed).sample(lengths, len(lengths))
    assert partition(lengths, dp, 100, COST) == partition(lengths, dp, 100, COST)
    # Ranks, micro-batches and lengths agree place by place, so only equally long samples can stand for one another.
    one, other = ([[[of[i] for i in micro] for micro in rank] for rank in partition(of, dp, 100, COST)] for of in (lengths, shuffled))
    assert one == other


def test_a_sample_beyond_the_budget_is_refused():
    with pytest.raises(ValueError, match="101 tokens exceeds learn.tokens_per_micro_batch=100"):
        partition([5, 101], 1, 100, COST)


def test_ranks_without_samples_have_empty_micro_batches():
    assert partition([], 3, 100, COST, multiple_of=2) == [[[], []]] * 3
    assert partition([100], 2, 100, COST) == [[[0]], [[]]]


def test_few_samples_go_to_different_ranks_though_one_micro_batch_would_hold_them():
    assert sorted(partition([30, 30], 2, 100, COST)) == [[[0]], [[1]]]


def test_samples_that_only_just_fit_share_micro_batches():
    # Longest first, each into the fullest that has room, would need three: 42+38, 34+30+28, 28.
    (rank,) = partition([42, 38, 34, 30, 28, 28], 1, 100, COST)
    assert sorted(sorted(micro) for micro in rank) in ([[0, 3, 4], [1, 2, 5]], [[0, 3, 5], [1, 2, 4]])


def test_short_samples_share_a_micro_batch_with_room_to_spare():
    assert partition([7, 3, 2, 1], 1, 100, COST) == [[[0, 1, 2, 3]]]


def test_flops_of_a_sequence():
    # Per layer and token: 2 x (q 3584 x 3584, k and v 3584 x 512, out 3584 x 3584, MLP 3 x 3584 x 18944); 28 layers.
    # Scores and values: 2 products x 2 FLOPs x 3584 channels x half the squared length.
    cost = Cost.of(QWEN_7B, head_dim=128)
    per_token = 28 * 2 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18944)
    assert cost(1000) == 1000 * per_token + 28 * 2 * 3584 * 1000**2


@pytest.mark.parametrize(("dp", "filled"), [(4, 0.97), (16, 0.70)])
def test_batches_of_long_solutions_are_packed_full_and_level(dp, filled):
    cost = Cost.of(QWEN_7B, head_dim=128)
    for seed in range(5):
        lengths = draw_lengths(seed)
        spread = partition(lengths, dp, BUDGET, cost)
        used = sum(bool(micro) for rank in spread for micro in rank)
        work = [sum(cost(lengths[i]) for micro in rank for i in micro) for rank in spread]
        assert sum(lengths) >= filled * used * BUDGET, seed
        assert max(work) * dp <= WORTH_OPENING * sum(work), seed
