"""The policy's and the token RM's losses (spec: Policy loss, Token RM; Eqs. 11 and 12).

Every sum is divided by a count over the global batch, so the losses of micro-batches and of ranks add up to the loss of the batch.
Computed in float32 whatever the inputs' precision; float64 stays float64.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_oreal.oreal.objective import Counts, Objective
from megatron_oreal.oreal.token_weights import TokenWeights


@dataclass
class PolicyLoss:
    """The loss of a micro-batch and its parts; the parts are detached and sum to the total."""

    total: Tensor  # scalar, with gradient
    positive: Tensor  # scalar: right trajectories
    negative: Tensor  # scalar: wrong trajectories, eta included
    kl: Tensor  # scalar: KL to the reference, beta included


def policy_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor | None,
    weights: TokenWeights | None,
    lengths: list[int],
    rewards: Tensor,
    advantages: Tensor,
    pass_rates: Tensor,
    counts: Counts,
    objective: Objective,
    importance: Tensor | None = None,
) -> PolicyLoss:
    """The loss of n trajectories whose R response tokens are laid end to end, `lengths` tokens each.

    logprobs, ref_logprobs: [R] of the response tokens under the policy and the frozen starting model (None only with beta 0).
    weights: [R] each, None exactly when the objective has no token RM (all 1); `reinforce` takes them as 1 in any case.
    importance: [R] a factor of each token's term but for the KL's, see importance_weights; None: all 1.
    rewards (+1 / -1), advantages, pass_rates: [n]. counts: of the global batch; where one is 0 its term is 0.
    `total` always has a gradient to `logprobs`, zeros where nothing is to be learnt. Raises ValueError for shapes that do not fit.
    """
    _check_shapes(logprobs, ref_logprobs, weights, lengths, (rewards, advantages, pass_rates), counts, objective)
    logprobs = _precise(logprobs)
    right, advantage, pass_rate = (_over_tokens(v, lengths, logprobs) for v in (rewards > 0, advantages, pass_rates))
    if objective.loss == "reinforce":
        terms = _reinforce(logprobs, right, advantage, counts)
    else:
        terms = _oreal(logprobs, weights, right, advantage, pass_rate, counts, objective)
    positive, negative = ((term if importance is None else term * importance).sum() for term in terms)
    kl = positive.new_zeros(())
    if ref_logprobs is not None and objective.beta:
        kl = objective.beta * kl_terms(logprobs, _precise(ref_logprobs), objective.kl).sum() / max(counts.tokens, 1)
    return PolicyLoss(positive + negative + kl, positive.detach(), negative.detach(), kl.detach())


def _oreal(
    logprobs: Tensor,
    weights: TokenWeights | None,
    right: Tensor,
    advantage: Tensor,
    pass_rate: Tensor,
    counts: Counts,
    objective: Objective,
) -> tuple[Tensor, Tensor]:
    """Eqs. 11 and 12: behaviour cloning on right tokens, policy gradient away from wrong ones; all inputs, and both results, [R]."""
    weight_right, weight_wrong = (weights.positive, weights.negative) if weights is not None else (1.0, 1.0)
    scale_right = advantage if objective.positive_scale == "advantage" else 1.0
    scale_wrong = -advantage if objective.negative_scale == "advantage" else 1 - pass_rate
    cloning = right * weight_right * scale_right * -logprobs
    avoiding = ~right * weight_wrong * scale_wrong * _ratio(logprobs)
    return cloning / max(counts.right_tokens, 1), objective.eta * avoiding / max(counts.wrong_tokens, 1)


def _reinforce(logprobs: Tensor, right: Tensor, advantage: Tensor, counts: Counts) -> tuple[Tensor, Tensor]:
    """Plain policy gradient over all response tokens, in the parts of right and of wrong trajectories; inputs and results [R]."""
    terms = -_ratio(logprobs) * advantage / max(counts.tokens, 1)
    return terms * right, terms * ~right


def _ratio(logprobs: Tensor) -> Tensor:
    """pi / pi_old. One update a rollout makes the current policy pi_old: its value is 1, its gradient that of the log-probability."""
    return torch.exp(logprobs - logprobs.detach())


def kl_terms(logprobs: Tensor, ref_logprobs: Tensor, kind: str) -> Tensor:
    """[R] terms of the KL penalty, with d = log pi_ref - log pi: k3 exp(d) - d - 1, k1 d, mse d^2 / 2; differentiable."""
    difference = ref_logprobs.detach() - logprobs
    if kind == "k3":
        return torch.expm1(difference) - difference
    return difference if kind == "k1" else difference.square() / 2


def token_rm_loss(scores: Tensor, lengths: list[int], rewards: Tensor, counts: Counts) -> Tensor:
    """Binary cross-entropy of each trajectory's mean score against right / wrong, over the global batch's trajectories.

    scores: [R] of the response tokens, laid end to end; rewards: [n] of +1 / -1. Scalar with gradient. Raises ValueError for shapes
    that do not fit and for an empty response, which has no mean.
    """
    if sum(lengths) != scores.numel() or len(lengths) != rewards.numel():
        raise ValueError(f"lengths {lengths} do not fit {scores.numel()} scores and {rewards.numel()} rewards")
    if not lengths:
        return _precise(scores).sum()
    if min(lengths) < 1:
        raise ValueError(f"response {lengths.index(min(lengths))} has no tokens, so no mean score")
    means = torch.stack([part.mean() for part in _precise(scores).split(lengths)])
    labels = (rewards > 0).to(means)
    return F.binary_cross_entropy_with_logits(means, labels, reduction="sum") / max(counts.trajectories, 1)


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _over_tokens(values: Tensor, lengths: list[int], like: Tensor) -> Tensor:
    """[n] -> [R] on the device (and, but for masks, in the precision) of `like`: each trajectory's value at each of its tokens."""
    repeats = torch.tensor(lengths, dtype=torch.long, device=like.device)
    values = values.to(like.device, torch.bool if values.dtype == torch.bool else like.dtype)
    return values.repeat_interleave(repeats, output_size=sum(lengths))


def _check_shapes(
    logprobs: Tensor,
    ref_logprobs: Tensor | None,
    weights: TokenWeights | None,
    lengths: list[int],
    per_trajectory: tuple[Tensor, ...],
    counts: Counts,
    objective: Objective,
) -> None:
    """ValueError for inputs that do not fit together: broadcasting would turn them into a wrong loss, not into a failure."""
    tokens = sum(lengths)
    if any(values.shape != (len(lengths),) for values in per_trajectory):
        raise ValueError(f"{len(lengths)} lengths for rewards, advantages, pass_rates of {[tuple(v.shape) for v in per_trajectory]}")
    if tokens > counts.tokens:
        raise ValueError(f"{tokens} response tokens here, but counts has {counts.tokens} in the whole global batch")
    if ref_logprobs is None and objective.beta:
        raise ValueError(f"ref_logprobs is None, but beta is {objective.beta}")
    if objective.loss == "oreal" and (weights is not None) != objective.token_rm:
        raise ValueError(f"weights are {'None' if weights is None else 'given'}, but token_rm is {objective.token_rm}")
    by_token = [logprobs, ref_logprobs, *((weights.positive, weights.negative) if weights is not None else ())]
    shapes = [tuple(values.shape) for values in by_token if values is not None]
    if any(shape != (tokens,) for shape in shapes):
        raise ValueError(f"lengths sum to {tokens} response tokens, logprobs, ref_logprobs and weights have {shapes}")
