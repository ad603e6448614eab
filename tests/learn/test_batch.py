"""Every trajectory in exactly one micro-batch, every rank with as many; the packed tensors point at the right places."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_oreal.learn.batch import pack, plan
from megatron_oreal.trajectory import Sample


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 100), max_size=60), dp=st.integers(1, 8))
def test_a_plan_has_every_sample_once_within_the_budget_and_equal_counts(lengths, dp):
    spread = plan(lengths, dp, budget=100)
    assert len(spread) == dp
    assert len({len(rank) for rank in spread}) == 1
    assert len(spread[0]) >= 1
    assert sorted(i for rank in spread for micro in rank for i in micro) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in micro) <= 100 for rank in spread for micro in rank)


def test_a_sample_beyond_the_budget_is_refused():
    with pytest.raises(ValueError, match="101 tokens exceeds learn.tokens_per_micro_batch=100"):
        plan([5, 101], 1, budget=100)


def test_positions_of_packed_responses():
    samples = [Sample("a", [1, 2], [3, 4, 5], 1, 0.5, 0.5, 0), Sample("b", [6], [7], -1, -0.5, 0.5, 0)]
    micro = pack(samples, 0, multiple=4, score_position="token", device=torch.device("cpu"))
    assert micro.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 0]]
    assert micro.packed.cu_seqlens_q.tolist() == [0, 5, 7, 8]
    assert micro.targets.tolist() == [3, 4, 5, 7]
    assert micro.logprob_positions.tolist() == [1, 2, 3, 5]
    assert micro.score_positions.tolist() == [2, 3, 4, 6]
    assert pack([], 0, multiple=4, score_position="token", device=torch.device("cpu")).tokens.shape == (1, 4)
