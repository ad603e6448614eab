import pytest
import torch

from megatron_oreal.oreal.objective import Objective
from megatron_oreal.oreal.token_weights import response_positions, token_weights


def logit(probability: list[float]) -> torch.Tensor:
    return torch.logit(torch.tensor(probability, dtype=torch.float64))


def weights_of(probability: list[float], lengths: list[int], **changes):
    return token_weights(logit(probability), lengths, Objective(weight_from="score", **changes))


def test_eq_10_by_hand():
    weights = weights_of([0.5, 0.75, 0.25, 0.9], [4])
    torch.testing.assert_close(weights.positive, torch.tensor([0, 0.5, 0, 0.8], dtype=torch.float64))
    torch.testing.assert_close(weights.negative, torch.tensor([0, 0, 0.5, 0], dtype=torch.float64))


def test_threshold_zero_gives_the_probability_itself():
    weights = weights_of([0.3, 0.8], [2], threshold=0.0)
    torch.testing.assert_close(weights.positive, torch.tensor([0.3, 0.8], dtype=torch.float64))
    torch.testing.assert_close(weights.negative, torch.tensor([0.7, 0.2], dtype=torch.float64))


def test_the_cumulative_mean_starts_anew_in_each_trajectory():
    scores = torch.tensor([2.0, 0.0, -2.0, 4.0, 0.0], dtype=torch.float64)
    means = torch.tensor([2.0, 1.0, 0.0, 4.0, 2.0], dtype=torch.float64)
    from_scores = token_weights(scores, [3, 2], Objective(weight_from="cumulative_mean"))
    from_means = token_weights(means, [3, 2], Objective(weight_from="score"))
    torch.testing.assert_close(from_scores.positive, from_means.positive)
    torch.testing.assert_close(from_scores.negative, from_means.negative)


def test_topk_by_hand_per_trajectory():
    # Half of four: 0.8 and 0.6 -> 1 and 0. Half of two: one token, its own min and max -> 1.
    weights = weights_of([0.2, 0.8, 0.6, 0.4, 0.3, 0.1], [4, 2], rescale="topk", topk_ratio=0.5)
    torch.testing.assert_close(weights.positive, torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.float64))
    torch.testing.assert_close(weights.negative, torch.tensor([1, 0, 0, 0, 0, 1], dtype=torch.float64))
    wider = weights_of([0.2, 0.8, 0.6, 0.4], [4], rescale="topk", topk_ratio=0.75)
    torch.testing.assert_close(wider.positive, torch.tensor([0, 1, 0.5, 0], dtype=torch.float64))


def test_topk_of_equal_scores_gives_ones_to_its_share():
    weights = weights_of([0.5] * 8, [8], rescale="topk", topk_ratio=0.25)
    assert weights.positive.tolist() == weights.negative.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("rescale", ["threshold", "topk"])
def test_weights_of_a_trajectory_do_not_depend_on_its_neighbours(rescale):
    scores, lengths = torch.randn(37, generator=torch.Generator().manual_seed(1), dtype=torch.float64), [1, 12, 20, 4]
    objective = Objective(rescale=rescale)
    together = token_weights(scores, lengths, objective)
    alone = [token_weights(part, [len(part)], objective) for part in scores.split(lengths)]
    torch.testing.assert_close(together.positive, torch.cat([w.positive for w in alone]))
    torch.testing.assert_close(together.negative, torch.cat([w.negative for w in alone]))


@pytest.mark.parametrize("objective", [Objective(), Objective(rescale="topk"), Objective.paper()])
def test_detached_float32_within_0_and_1_for_bfloat16_scores(objective):
    scores = (8 * torch.randn(500, generator=torch.Generator().manual_seed(1))).bfloat16().requires_grad_()
    weights = token_weights(scores, [200, 300], objective)
    for values in (weights.positive, weights.negative):
        assert not values.requires_grad and values.dtype == torch.float32
        assert values.min() >= 0 and values.max() == pytest.approx(1, abs=0.2)
    exact = token_weights(scores.detach().double(), [200, 300], objective)
    torch.testing.assert_close(weights.positive.double(), exact.positive, rtol=0, atol=1e-5)


def test_a_zero_head_gives_weights_of_zero_and_nothing_gives_nothing():
    assert not token_weights(torch.zeros(5), [5], Objective()).positive.any()
    assert token_weights(torch.zeros(0), [], Objective()).positive.shape == (0,)


def test_lengths_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="lengths sum to 4 response tokens, scores has 5"):
        token_weights(torch.zeros(5), [4], Objective())


def test_score_positions():
    # Prompt of 3, response of 2: tokens 3 and 4. The last token's own position, 4, is never read by `previous`.
    assert list(response_positions(3, 2, "previous")) == [2, 3]
    assert list(response_positions(3, 2, "token")) == [3, 4]
    assert list(response_positions(0, 2, "token")) == [0, 1]
    with pytest.raises(ValueError, match="prompt of at least 1 token"):
        response_positions(0, 2, "previous")
    with pytest.raises(ValueError, match="score_position is 'next', allowed: previous, token"):
        response_positions(3, 2, "next")
