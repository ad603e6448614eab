"""From token RM scores to token weights (spec: Token weights; Eq. 10). No gradient flows through the weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_oreal.oreal.objective import CHOICES, Objective, require_choice


@dataclass
class TokenWeights:
    """The weights of the response tokens of several trajectories, laid end to end; each in [0, 1] and detached."""

    positive: Tensor  # [response tokens], used where the trajectory is right
    negative: Tensor  # [response tokens], used where it is wrong


def response_positions(prompt_length: int, response_length: int, score_position: str) -> range:
    """Positions within a trajectory (prompt first) whose scores belong to its response tokens, in order.

    previous (released): the position before each token, whose logits predict it; the last token's own position is never read.
    token (paper): the token's own position. Raises ValueError for an unknown position, or `previous` without a prompt token.
    """
    require_choice("score_position", score_position, CHOICES["score_position"])
    first = prompt_length - 1 if score_position == "previous" else prompt_length
    if first < 0:
        raise ValueError(f"score_position previous needs a prompt of at least 1 token, has {prompt_length}")
    return range(first, first + response_length)


def token_weights(scores: Tensor, lengths: list[int], objective: Objective) -> TokenWeights:
    """[response tokens] scores of trajectories laid end to end, `lengths` tokens each -> their weights, detached.

    float32 whatever the scores' precision; float64 stays float64. Raises ValueError where the lengths do not sum to the scores.
    """
    if sum(lengths) != scores.numel():
        raise ValueError(f"lengths sum to {sum(lengths)} response tokens, scores has {scores.numel()}")
    scores = scores.detach()
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if objective.weight_from == "cumulative_mean":
        scores = _over_trajectories(cumulative_mean, scores, lengths)
    right = torch.sigmoid(scores)  # q_t of Eq. 10: how likely the trajectory is right, as seen at token t
    if objective.rescale == "threshold":
        return TokenWeights(above_threshold(right, objective.threshold), above_threshold(1 - right, objective.threshold))
    return TokenWeights(*(_over_trajectories(lambda p: top_share(p, objective.topk_ratio), p, lengths) for p in (right, 1 - right)))


def _over_trajectories(function: Callable[[Tensor], Tensor], values: Tensor, lengths: list[int]) -> Tensor:
    """Apply `function` to each trajectory's part of `values`."""
    return torch.cat([function(part) for part in values.split(lengths)]) if lengths else values


def cumulative_mean(scores: Tensor) -> Tensor:
    """[tokens] -> [tokens]: the mean of the scores up to and including each token."""
    return scores.cumsum(0) / torch.arange(1, len(scores) + 1, device=scores.device, dtype=scores.dtype)


def above_threshold(probability: Tensor, threshold: float) -> Tensor:
    """Eq. 10: 0 up to the threshold, then linear, 1 at probability 1."""
    return ((probability - threshold) / (1 - threshold)).clamp(0, 1)


def top_share(probability: Tensor, ratio: float) -> Tensor:
    """[tokens] -> [tokens]: the top `ratio` of them (rounded, at least one) rescaled to 0..1 by their min and max, others 0.

    Where the top ones are all equal they all get 1. Among equals the earlier token is taken, so that every rank and device agrees.
    """
    if not len(probability):
        return probability
    top = probability.argsort(descending=True, stable=True)[: max(1, round(ratio * len(probability)))]
    value = probability[top]
    low, high = value.min(), value.max()
    rescaled = torch.where(high > low, (value - low) / (high - low), torch.ones_like(value))
    return torch.zeros_like(probability).scatter(0, top, rescaled)
