"""Trainer against engine: hand-computed sums, and weights that are constants of the loss."""

import math

import pytest
import torch

from megatron_oreal.oreal.losses import policy_loss
from megatron_oreal.oreal.mismatch import importance_weights, mismatch
from megatron_oreal.oreal.objective import Counts, Objective
from megatron_oreal.oreal.token_weights import TokenWeights

NAN = float("nan")


def test_sums_over_the_known_tokens():
    train = torch.tensor([-1.0, -2.0, -3.0, -0.5], requires_grad=True)
    sums = mismatch(train, torch.tensor([-1.5, -2.0, NAN, -0.25]), cap=1.2)
    assert sums.tokens == 3
    assert sums.difference == pytest.approx(0.75) and sums.largest == pytest.approx(0.5)
    assert sums.kl == pytest.approx(math.exp(0.5) - 1.5 + math.exp(-0.25) - 0.75)
    assert sums.capped == 1
    assert not sums.kl.requires_grad
    nothing = mismatch(torch.zeros(0), torch.zeros(0))
    assert (nothing.tokens, nothing.largest, nothing.kl) == (0, 0, 0)
    with pytest.raises(ValueError, match="log-probabilities"):
        mismatch(train, torch.zeros(3))


def test_weights_are_truncated_and_multiply_each_tokens_gradient():
    train = torch.tensor([-1.0, -2.0, -3.0, -0.5], requires_grad=True)
    rollout = torch.tensor([-1.5, -2.0, NAN, -0.25])
    weights = importance_weights(train, rollout, cap=1.2)
    torch.testing.assert_close(weights, torch.tensor([1.2, 1.0, 1.0, math.exp(-0.25)]))
    assert not weights.requires_grad

    def gradient(importance):
        ones = TokenWeights(torch.ones(4), torch.ones(4))
        rewards, advantages, rates = torch.tensor([1.0, -1.0]), torch.tensor([0.5, -0.5]), torch.tensor([0.5, 0.5])
        counts = Counts(right_tokens=2, wrong_tokens=2, tokens=4, trajectories=2)
        loss = policy_loss(train, None, ones, [2, 2], rewards, advantages, rates, counts, Objective(beta=0.0), importance).total
        return torch.autograd.grad(loss, train)[0]

    torch.testing.assert_close(gradient(weights), gradient(None) * weights)
    assert gradient(None).abs().min() > 0


def test_a_cap_that_cuts_everything_is_refused():
    with pytest.raises(ValueError, match="importance_cap is 0, allowed: above 0, or null"):
        Objective(importance_cap=0)
