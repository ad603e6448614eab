import pytest
import torch

from megatron_oreal.oreal.advantage import advantages


def test_rloo_by_hand():
    # One right of four: the right one against a mean of -1, a wrong one against (1 - 1 - 1) / 3.
    rewards = torch.tensor([[1, -1, -1, -1], [1, 1, -1, -1], [1, 1, 1, 1]])
    expected = torch.tensor([[2, -2 / 3, -2 / 3, -2 / 3], [4 / 3, 4 / 3, -4 / 3, -4 / 3], [0, 0, 0, 0]])
    torch.testing.assert_close(advantages(rewards, "rloo"), expected)


def test_grpo_by_hand():
    # One right of four: mean -0.5, variance (1.5^2 + 3 * 0.5^2) / 3 = 1. Equal rewards: 0, not nan.
    rewards = torch.tensor([[1.0, -1, -1, -1], [-1, -1, -1, -1]], dtype=torch.float64)
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(advantages(rewards, "grpo"), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("samples", [2, 3, 16])
def test_rloo_is_the_closed_form_in_the_pass_rate(samples):
    for right in range(samples + 1):
        rewards = torch.tensor([1.0] * right + [-1.0] * (samples - right), dtype=torch.float64)
        p, factor = right / samples, 2 * samples / (samples - 1)
        expected = torch.tensor([(1 - p) * factor] * right + [-p * factor] * (samples - right), dtype=torch.float64)
        torch.testing.assert_close(advantages(rewards, "rloo"), expected)


@pytest.mark.parametrize("rewards", [torch.ones(3, 1), torch.ones(0), torch.tensor(1.0)])
def test_fewer_than_two_samples_raise(rewards):
    with pytest.raises(ValueError, match="needs K >= 2"):
        advantages(rewards, "rloo")


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_samples_that_do_not_count_are_as_if_never_drawn(kind):
    rewards = torch.tensor([[1.0, 7, -1, -1, 7], [7, -1, 7, 1, 7]], dtype=torch.float64)  # 7: whatever stands there
    counted = rewards != 7
    got = advantages(rewards, kind, counted)
    for row in range(2):
        torch.testing.assert_close(got[row][counted[row]], advantages(rewards[row][counted[row]], kind))
    assert (got[~counted] == 0).all()
    with pytest.raises(ValueError, match="needs K >= 2, has 1"):
        advantages(rewards, kind, rewards == 1)


def test_unknown_kind_raises():
    with pytest.raises(ValueError, match="advantage is 'gae', allowed: rloo, grpo"):
        advantages(torch.ones(2), "gae")
