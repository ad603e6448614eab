"""Advantages over the K rewards of one question (spec: Advantage; reward shaping of the paper's Section 2)."""

import torch
from torch import Tensor

from megatron_oreal.oreal.objective import CHOICES, require_choice

GRPO_EPSILON = 1e-8
"""Keeps the quotient finite (and 0) where all rewards of a question are equal."""


def advantages(rewards: Tensor, kind: str, counted: Tensor | None = None) -> Tensor:
    """[..., K] rewards of one question along the last axis -> [..., K] advantages, float32 (float64 stays float64).

    rloo: the reward minus the mean of the other K - 1. grpo: (reward - mean) / (std + 1e-8), std with K - 1 in the denominator.
    `counted` [..., K] (default: all): of a sample that is not counted nobody knows the reward; K is then the number of the others,
    and its own advantage is 0. Raises ValueError for K < 2 or an unknown kind.
    """
    require_choice("advantage", kind, CHOICES["advantage"])
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted
    samples = counted.sum(-1, keepdim=True)
    fewest = int(samples.min()) if rewards.dim() and rewards.numel() else 0
    if fewest < 2:
        raise ValueError(f"an advantage compares the samples of one question: needs K >= 2, has {fewest}")
    rewards = (rewards if rewards.dtype == torch.float64 else rewards.float()) * counted
    total = rewards.sum(-1, keepdim=True)
    if kind == "rloo":
        return (rewards - (total - rewards) / (samples - 1)) * counted
    centered = (rewards - total / samples) * counted
    deviation = (centered.square().sum(-1, keepdim=True) / (samples - 1)).sqrt()
    return centered / (deviation + GRPO_EPSILON)
