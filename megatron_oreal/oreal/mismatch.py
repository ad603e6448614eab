"""How far the trainer's log-probabilities lie from those of the engine that sampled, and the correction for it.

Both are of the same weights; what differs is kernels, precision, batching (and the weights, for tokens of an earlier version). With
d = log p_train - log p_rollout of the sampled tokens, taken at temperature 1. The engine's p is that before top-p: it really sampled
with p / Z, Z in [top_p, 1] being the mass that top-p left, so that each d is too large by -log Z, at most -log(top_p).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mismatch:
    """Sums over the tokens whose engine log-probability is known; scalars, float32, detached."""

    tokens: Tensor
    difference: Tensor  # of |d|
    largest: Tensor  # |d|, 0 without tokens
    kl: Tensor  # of exp(d) - 1 - d: the k3 estimate of KL(rollout || train), which the tokens were sampled for
    capped: Tensor  # tokens whose weight importance_weights() cuts, 0 without a cap


def mismatch(logprobs: Tensor, rollout_logprobs: Tensor, cap: float | None = None) -> Mismatch:
    """logprobs, rollout_logprobs: [R] of the sampled tokens; NaN where the engine's is not known."""
    d = difference(logprobs, rollout_logprobs)
    known, d = ~d.isnan(), d.nan_to_num(nan=0.0)
    return Mismatch(
        tokens=known.sum(),
        difference=d.abs().sum(),
        largest=torch.cat([d.abs(), d.new_zeros(1)]).max(),
        kl=(torch.expm1(d) - d).sum(),
        capped=(known & (d.exp() > cap)).sum() if cap is not None else d.new_zeros(()),
    )


def importance_weights(logprobs: Tensor, rollout_logprobs: Tensor, cap: float) -> Tensor:
    """[R] min(exp(d), cap), detached: truncated importance sampling (rho of IMPALA, arXiv 1802.01561); 1 where d is not known."""
    return difference(logprobs, rollout_logprobs).exp().clamp(max=cap).nan_to_num(nan=1.0)


def difference(logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
    """[R] d, detached, float32; NaN where the engine's is not known."""
    if logprobs.shape != rollout_logprobs.shape:
        raise ValueError(f"{tuple(logprobs.shape)} log-probabilities for {tuple(rollout_logprobs.shape)} of the rollout")
    return logprobs.detach().float() - rollout_logprobs.float()
