from collections import Counter

import pytest
import torch

from megatron_oreal.oreal.selection import select

REWARDS = torch.tensor([[1, 1, 1, 1], [1, -1, -1, 1], [-1, -1, -1, -1], [-1, -1, -1, 1], [-1, -1, -1, -1]])


def test_pair_keeps_one_right_and_one_wrong_and_counts_what_it_drops():
    selection = select(REWARDS, "pair", torch.Generator().manual_seed(3))
    assert [question for question, _ in selection.kept] == [1, 1, 3, 3]
    assert [int(REWARDS[pair]) for pair in selection.kept] == [1, -1, 1, -1]
    assert (selection.dropped_all_right, selection.dropped_all_wrong) == (1, 2)


def test_all_keeps_everything_in_order():
    selection = select(REWARDS, "all", torch.Generator())
    assert selection.kept == [(question, sample) for question in range(5) for sample in range(4)]
    assert (selection.dropped_all_right, selection.dropped_all_wrong) == (0, 0)


def test_the_same_generator_state_gives_the_same_draw():
    rewards = torch.where(torch.arange(32 * 16).view(32, 16) % 3 == 0, 1, -1)
    first, second = (select(rewards, "pair", torch.Generator().manual_seed(7)).kept for _ in range(2))
    other = select(rewards, "pair", torch.Generator().manual_seed(8)).kept
    assert first == second != other


def test_every_candidate_is_drawn_about_equally_often():
    rewards = torch.tensor([[1, -1, 1, -1, 1, -1]]).expand(3000, 6)
    drawn = Counter(sample for _, sample in select(rewards, "pair", torch.Generator().manual_seed(0)).kept)
    assert set(drawn) == set(range(6))
    assert all(900 < times < 1100 for times in drawn.values()), drawn  # expected 1000, standard deviation 26


def test_samples_that_do_not_count_are_never_kept():
    counted = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    selection = select(REWARDS, "pair", torch.Generator().manual_seed(3), counted)
    assert selection.kept == [(1, 3), (1, 1)]
    assert select(REWARDS, "all", torch.Generator(), counted).kept == [(0, 0), (0, 1), (1, 1), (1, 3), (2, 0), (3, 0), (3, 1)]


def test_unknown_keep_raises():
    with pytest.raises(ValueError, match="keep is 'best', allowed: pair, all"):
        select(REWARDS, "best", torch.Generator())
