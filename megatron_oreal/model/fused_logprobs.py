"""The log-probabilities of model.logprobs by kernels that compute logits a tile at a time and keep them on the chip.

The kernels are an argument: Triton's (model.logprob_kernels) on a GPU; the planner's only have the same sizes (plan.kernels).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_oreal.model.logprobs import LocalRows, chunks, from_sums
from megatron_oreal.model.shape import STRIP, fused_chunk_tokens


@dataclass(frozen=True)
class Strips:
    """Softmax sums over strips of this rank's words, all float32; l are the logits of a strip, m is their maximum."""

    peaks: Tensor  # [strips, tokens] m
    totals: Tensor  # [strips, tokens] sum exp(l - m)
    weighted: Tensor  # [strips, tokens] sum exp(l - m) (l - m)
    targets: Tensor  # [tokens] the target's logit; 0 where it is another rank's

    @classmethod
    def empty(cls, hidden: Tensor, weight: Tensor) -> "Strips":
        """For a kernel to fill in."""
        sums = hidden.new_empty(3, -(-len(weight) // STRIP), len(hidden), dtype=torch.float32)
        return cls(*sums, hidden.new_zeros(len(hidden), dtype=torch.float32))


class Kernels(Protocol):
    """hidden [tokens, h] and weight [rows, h] are contiguous; local [tokens] are targets as rows of weight: others are other ranks'."""

    def strips(self, hidden: Tensor, weight: Tensor, local: Tensor) -> Strips:
        """The forward pass."""

    def gradient(self, hidden: Tensor, weight: Tensor, local: Tensor, normalizer: Tensor, upstream: Tensor, out: Tensor) -> None:
        """Of the logits, to out [tokens, rows], from that of the log-probabilities, upstream [tokens]; normalizer: log sum exp [tokens]."""

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        """total += left @ right, in float32, without a temporary."""


def fused_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: dist.ProcessGroup, vocab_size: int, kernels: Kernels
) -> tuple[Tensor, Tensor]:
    """See logprobs.vocab_parallel_logprobs; logits are not rounded to the inputs' format on the way."""
    return _FusedLogProbs.apply(hidden, weight, targets, group, vocab_size, kernels)


class _FusedLogProbs(torch.autograd.Function):
    """Keeps what the chunked way keeps, and treats main_grad alike."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, group, vocab_size, kernels):
        hidden = hidden.contiguous()
        rows = LocalRows(weight, group, vocab_size)
        sums, peak = _over_all_ranks(kernels.strips(hidden, rows.weight, targets - rows.first), rows.has(targets), group)
        logprobs, entropy, log_sum = from_sums(sums)
        ctx.save_for_backward(hidden, weight, targets, log_sum + peak)
        ctx.group, ctx.vocab_size, ctx.kernels = group, vocab_size, kernels
        ctx.main_grad = getattr(weight, "main_grad", None)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs, _):
        hidden, weight, targets, normalizer = ctx.saved_tensors
        rows, upstream = LocalRows(weight, ctx.group, ctx.vocab_size), grad_logprobs.contiguous()
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.main_grad is None else ctx.main_grad
        for part, grad in _rooms(hidden, rows.weight):
            ctx.kernels.gradient(hidden[part], rows.weight, targets[part] - rows.first, normalizer[part], upstream[part], grad)
            torch.mm(grad, rows.weight, out=grad_hidden[part])
            ctx.kernels.accumulate(grad_weight[: len(rows.weight)], grad.t(), hidden[part])
        grad = None  # its memory is free for what may be as large as the head
        returned = grad_weight.to(weight.dtype) if ctx.main_grad is None else None
        return grad_hidden, returned, None, None, None, None


def _rooms(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of tokens, and the same memory for the gradient of each one's logits."""
    room = hidden.new_empty(min(fused_chunk_tokens(len(weight), hidden.element_size()), len(hidden)), len(weight))
    for part in chunks(len(hidden), max(len(room), 1)):
        yield part, room[: len(hidden[part])]


def _over_all_ranks(strips: Strips, mine: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """(the sums of logprobs.from_sums [3, tokens], maximum of all logits [tokens]) from this rank's strips; mine: whose target is here."""
    peak = strips.peaks.amax(dim=0)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=group)
    moved = strips.peaks - peak
    scale = moved.exp()
    # A strip's sums are of exp(l - m), and are to be of exp(l - peak).
    totals = strips.totals * scale
    weighted = strips.weighted.mul_(scale).addcmul_(moved, totals)
    sums = torch.stack([totals.sum(0), weighted.sum(0), (strips.targets - peak) * mine])
    dist.all_reduce(sums, group=group)
    return sums, peak
