"""Advantages over the K rewards of one question (spec: Advantage; reward shaping of the paper's Section 2)."""

import torch
from torch import Tensor

from megatron_oreal.oreal.objective import CHOICES, require_choice

GRPO_EPSILON = 1e-8
"""Keeps the quotient finite (and 0) where all rewards of a question are equal."""


def advantages(rewards: Tensor, kind: str) -> Tensor:
    """[..., K] rewards of one question along the last axis -> [..., K] advantages, float32 (float64 stays float64).

    rloo: the reward minus the mean of the other K - 1. grpo: (reward - mean) / (std + 1e-8), std with K - 1 in the denominator.
    Raises ValueError for K < 2 or an unknown kind.
    """
    require_choice("advantage", kind, CHOICES["advantage"])
    samples = rewards.shape[-1] if rewards.dim() else 0
    if samples < 2:
        raise ValueError(f"an advantage compares the samples of one question: needs K >= 2, has {samples}")
    rewards = rewards if rewards.dtype == torch.float64 else rewards.float()
    if kind == "rloo":
        others = rewards.sum(-1, keepdim=True) - rewards
        return rewards - others / (samples - 1)
    deviation = rewards.std(-1, keepdim=True, correction=1)
    return (rewards - rewards.mean(-1, keepdim=True)) / (deviation + GRPO_EPSILON)
