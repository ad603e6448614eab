import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from megatron_oreal.oreal.losses import policy_loss, token_rm_loss
from megatron_oreal.oreal.objective import Counts, Objective
from megatron_oreal.oreal.token_weights import TokenWeights, token_weights

PARTS = ("total", "positive", "negative", "kl")
OBJECTIVES = {
    "released": Objective.released(),
    "paper": Objective.paper(),
    "topk": Objective(rescale="topk"),
    "no_rm": Objective(token_rm=False, keep="all"),
    "k1": Objective(kl="k1"),
    "mse": Objective(kl="mse"),
    "reinforce": Objective(loss="reinforce", token_rm=False),
}


@dataclass
class Batch:
    """Six trajectories, three of them right, with random log-probabilities and scores."""

    logprobs: Tensor
    ref_logprobs: Tensor
    scores: Tensor
    lengths: list[int]
    rewards: Tensor
    advantages: Tensor
    pass_rates: Tensor

    @property
    def counts(self) -> Counts:
        return Counts.from_rewards(self.rewards.tolist(), self.lengths)

    def part(self, first: int, last: int) -> "Batch":
        """Trajectories first..last as a micro-batch."""
        tokens = slice(sum(self.lengths[:first]), sum(self.lengths[:last]))
        some = slice(first, last)
        by_token = (self.logprobs[tokens], self.ref_logprobs[tokens], self.scores[tokens])
        return Batch(*by_token, self.lengths[some], self.rewards[some], self.advantages[some], self.pass_rates[some])


def random_batch() -> Batch:
    generator = torch.Generator().manual_seed(11)
    lengths = [3, 7, 1, 5, 2, 6]
    logprobs, ref_logprobs = (-3 * torch.rand(2, sum(lengths), generator=generator, dtype=torch.float64) - 0.01).unbind()
    return Batch(
        logprobs.clone().requires_grad_(),
        ref_logprobs,
        torch.randn(sum(lengths), generator=generator, dtype=torch.float64),
        lengths,
        torch.tensor([1, -1, 1, -1, -1, 1]),
        torch.tensor([1.2, -0.4, 0.7, -1.5, -0.3, 0.9], dtype=torch.float64),
        torch.tensor([0.5, 0.5, 0.25, 0.25, 0.75, 0.75], dtype=torch.float64),
    )


def loss_of(batch: Batch, objective: Objective, counts: Counts | None = None):
    weights = token_weights(batch.scores, batch.lengths, objective) if objective.token_rm else None
    per_trajectory = (batch.rewards, batch.advantages, batch.pass_rates)
    return policy_loss(batch.logprobs, batch.ref_logprobs, weights, batch.lengths, *per_trajectory, counts or batch.counts, objective)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of, retain_graph=True)[0]


def by_hand(objective: Objective, weights: TokenWeights | None = None):
    """Two tokens of a right trajectory (advantage 1.5) and one of a wrong one (advantage -0.5, pass rate 0.25)."""
    logprobs = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64, requires_grad=True)
    counts = Counts(right_tokens=10, wrong_tokens=5, tokens=15, trajectories=4)
    rewards, advantages, pass_rates = torch.tensor([1, -1]), torch.tensor([1.5, -0.5]), torch.tensor([0.25, 0.25])
    loss = policy_loss(logprobs, logprobs.detach(), weights, [2, 1], rewards, advantages, pass_rates, counts, objective)
    return loss, gradient(loss.total, logprobs)


def test_released_loss_by_hand():
    weights = TokenWeights(torch.tensor([0.5, 1.0, 9.0]), torch.tensor([9.0, 9.0, 0.8]))  # 9: must not be read
    loss, grad = by_hand(Objective(), weights)
    assert loss.positive.item() == pytest.approx((0.5 * 1 + 1.0 * 2) * 1.5 / 10)
    assert loss.negative.item() == pytest.approx(0.5 * 0.8 * 0.5 / 5)
    assert grad.tolist() == pytest.approx([-0.5 * 1.5 / 10, -1.0 * 1.5 / 10, 0.5 * 0.8 * 0.5 / 5])


def test_paper_loss_by_hand():
    weights = TokenWeights(torch.tensor([0.5, 1.0, 9.0]), torch.tensor([9.0, 9.0, 0.8]))
    loss, grad = by_hand(Objective.paper(), weights)
    assert loss.positive.item() == pytest.approx((0.5 * 1 + 1.0 * 2) / 10)
    assert loss.negative.item() == pytest.approx(0.5 * 0.8 * 0.75 / 5)
    assert grad.tolist() == pytest.approx([-0.05, -0.1, 0.5 * 0.8 * 0.75 / 5])


@pytest.mark.parametrize("token_rm", [True, False])
def test_reinforce_by_hand_takes_all_weights_as_one(token_rm):
    weights = TokenWeights(torch.zeros(3), torch.zeros(3)) if token_rm else None
    loss, grad = by_hand(Objective(loss="reinforce", token_rm=token_rm), weights)
    assert loss.positive.item() == pytest.approx(-2 * 1.5 / 15)
    assert loss.negative.item() == pytest.approx(0.5 / 15)
    assert grad.tolist() == pytest.approx([-1.5 / 15, -1.5 / 15, 0.5 / 15])


@pytest.mark.parametrize(
    ("kind", "term", "slope"),
    [
        ("k3", lambda d: math.exp(d) - d - 1, lambda d: 1 - math.exp(d)),
        ("k1", lambda d: d, lambda d: -1.0),
        ("mse", lambda d: d * d / 2, lambda d: -d),
    ],
)
def test_kl_kinds_by_hand(kind, term, slope):
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    ref_logprobs = torch.tensor([-0.7, -2.5], dtype=torch.float64, requires_grad=True)
    objective = Objective(token_rm=False, beta=0.1, kl=kind)
    counts = Counts(right_tokens=4, wrong_tokens=0, tokens=4, trajectories=2)
    ones, zeros = torch.ones(1), torch.zeros(1)  # an advantage of 0 leaves the KL term alone
    loss = policy_loss(logprobs, ref_logprobs, None, [2], ones, zeros, ones, counts, objective)
    loss.total.backward()
    differences = [0.3, -0.5]
    assert loss.kl.item() == loss.total.item() == pytest.approx(0.1 * sum(map(term, differences)) / 4)
    assert logprobs.grad.tolist() == pytest.approx([0.1 * slope(d) / 4 for d in differences])
    assert ref_logprobs.grad is None


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("cuts", [[0, 1, 6], [0, 2, 3, 6], [0, 1, 2, 3, 4, 5, 6], [0, 0, 6]])
def test_micro_batches_add_up_to_the_batch(name, cuts):
    batch, objective = random_batch(), OBJECTIVES[name]
    whole = loss_of(batch, objective)
    parts = [loss_of(batch.part(a, b), objective, batch.counts) for a, b in zip(cuts, cuts[1:], strict=False)]
    for part in PARTS:
        torch.testing.assert_close(sum(getattr(p, part) for p in parts), getattr(whole, part), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(sum(p.total for p in parts), batch.logprobs), gradient(whole.total, batch.logprobs))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_sum_to_the_total_and_are_detached(name):
    loss = loss_of(random_batch(), OBJECTIVES[name])
    torch.testing.assert_close(loss.positive + loss.negative + loss.kl, loss.total.detach())
    assert loss.total.requires_grad and not any(getattr(loss, part).requires_grad for part in PARTS[1:])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("reward", [1, -1])
def test_only_right_or_only_wrong_trajectories_give_numbers(name, reward):
    batch = replace(random_batch(), rewards=torch.full((6,), reward))
    loss = loss_of(batch, OBJECTIVES[name])
    assert gradient(loss.total, batch.logprobs).isfinite().all() and loss.total.isfinite()
    assert (loss.negative if reward > 0 else loss.positive) == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_trajectories_give_zero_and_still_a_graph(name):
    empty = random_batch().part(0, 0)
    loss = loss_of(empty, OBJECTIVES[name], Counts.from_rewards([], []))
    loss.total.backward()
    assert loss.total == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_zero_coefficients_give_a_zero_gradient_not_a_missing_one(name):
    batch = replace(random_batch(), advantages=torch.zeros(6), scores=torch.zeros(24, dtype=torch.float64))
    objective = replace(OBJECTIVES[name], beta=0.0, positive_scale="advantage", negative_scale="advantage")
    assert not gradient(loss_of(batch, objective).total, batch.logprobs).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_inputs_are_computed_in_float32(name):
    batch = random_batch()
    low = batch.logprobs.detach().bfloat16().requires_grad_()
    half = replace(batch, logprobs=low, ref_logprobs=batch.ref_logprobs.bfloat16(), scores=batch.scores.bfloat16())
    exact = replace(half, logprobs=low.detach().double(), ref_logprobs=half.ref_logprobs.double(), scores=half.scores.double())
    loss = loss_of(half, OBJECTIVES[name])
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total.double().detach(), loss_of(exact, OBJECTIVES[name]).total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if OBJECTIVES[name].kl == "k3"])
def test_beta_zero_needs_no_reference(name):
    batch, objective = random_batch(), replace(OBJECTIVES[name], beta=0.0)
    assert loss_of(replace(batch, ref_logprobs=None), objective).kl == 0


def test_inputs_that_do_not_fit_raise():
    batch = random_batch()
    with pytest.raises(ValueError, match="ref_logprobs is None, but beta is 0.01"):
        loss_of(replace(batch, ref_logprobs=None), Objective())
    with pytest.raises(ValueError, match="ref_logprobs and weights have"):
        loss_of(replace(batch, ref_logprobs=batch.ref_logprobs[:1]), Objective())
    with pytest.raises(ValueError, match="6 lengths for rewards"):
        loss_of(replace(batch, rewards=batch.rewards[:5]), Objective(), batch.counts)
    with pytest.raises(ValueError, match="24 response tokens here, but counts has 3"):
        loss_of(batch, Objective(), Counts(right_tokens=3, wrong_tokens=0, tokens=3, trajectories=1))
    weights = token_weights(batch.scores, batch.lengths, Objective())
    per_trajectory = (batch.rewards, batch.advantages, batch.pass_rates, batch.counts)
    with pytest.raises(ValueError, match="weights are None, but token_rm is True"):
        policy_loss(batch.logprobs, batch.ref_logprobs, None, batch.lengths, *per_trajectory, Objective())
    with pytest.raises(ValueError, match="weights are given, but token_rm is False"):
        policy_loss(batch.logprobs, batch.ref_logprobs, weights, batch.lengths, *per_trajectory, Objective(token_rm=False))


def test_token_rm_loss_by_hand_and_over_micro_batches():
    scores = torch.tensor([1.0, 3.0, -1.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    rewards, lengths = torch.tensor([1, -1]), [2, 3]  # means 2 and 1
    counts = Counts(right_tokens=2, wrong_tokens=3, tokens=5, trajectories=4)  # two more trajectories elsewhere
    loss = token_rm_loss(scores, lengths, rewards, counts)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 4)
    slopes = [-1 / (1 + math.exp(2)) / 2 / 4] * 2 + [1 / (1 + math.exp(-1)) / 3 / 4] * 3
    assert gradient(loss, scores).tolist() == pytest.approx(slopes)
    halves = token_rm_loss(scores[:2], [2], rewards[:1], counts) + token_rm_loss(scores[2:], [3], rewards[1:], counts)
    torch.testing.assert_close(halves, loss)


def test_token_rm_loss_of_nothing_and_of_what_does_not_fit():
    nothing = torch.zeros(0, requires_grad=True)
    token_rm_loss(nothing, [], torch.zeros(0), Counts(0, 0, 0, 0)).backward()
    counts = Counts.from_rewards([1, -1], [2, 0])
    with pytest.raises(ValueError, match="response 1 has no tokens"):
        token_rm_loss(torch.zeros(2), [2, 0], torch.tensor([1, -1]), counts)
    with pytest.raises(ValueError, match="do not fit 2 scores and 1 rewards"):
        token_rm_loss(torch.zeros(2), [1], torch.tensor([1]), counts)
