"""Log-probabilities and entropy over a vocabulary split over TP ranks, in float32, without ever holding all the logits."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_oreal.model.shape import chunk_tokens

LogProbs = Callable[[Tensor, Tensor, Tensor, dist.ProcessGroup, int], tuple[Tensor, Tensor]]
"""vocab_parallel_logprobs without its last argument, or what takes its place."""


def vocab_parallel_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, group: dist.ProcessGroup, vocab_size: int, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token, and the entropy of each distribution.

    Args:
        hidden: [tokens, hidden], the same on every TP rank. Its gradient is this rank's part: the caller sums it over TP
            (copy_to_tensor_model_parallel_region, or the reduce-scatter of a sequence-parallel gather).
        weight: [padded vocab/tp, hidden], this rank's rows of the LM head.
        targets: [tokens], token ids of the whole vocabulary.
        group: the TP group.
        vocab_size: rows of the real vocabulary; padding rows beyond it take no part.
        chunk: tokens whose logits exist at one time; None: see chunk_tokens.

    Returns:
        (log-probabilities [tokens], entropy [tokens]), float32; the entropy carries no gradient.
    """
    return _ChunkedLogProbs.apply(hidden, weight, targets, group, vocab_size, chunk or chunk_tokens(len(weight)))


class _ChunkedLogProbs(torch.autograd.Function):
    """Keeps hidden states and one normaliser a token; the backward pass computes each chunk's logits again.

    Where Megatron keeps the weight's gradient in a buffer of its own (main_grad) it is added there, and none of its size is returned.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, group, vocab_size, chunk):
        rows = LocalRows(weight, group, vocab_size)
        logprobs, entropy, normalizer = (hidden.new_empty(len(targets), dtype=torch.float32) for _ in range(3))
        for part in chunks(len(targets), chunk):
            logits = rows.logits(hidden[part])
            peak = logits.amax(dim=-1)
            dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=group)
            logits -= peak[:, None]
            target = rows.pick(logits, targets[part])
            exp = logits.exp()
            sums = torch.stack([exp.sum(-1), exp.mul_(logits).sum(-1), target])
            dist.all_reduce(sums, group=group)
            logprobs[part], entropy[part], log_sum = from_sums(sums)
            normalizer[part] = log_sum + peak
        ctx.save_for_backward(hidden, weight, targets, normalizer)
        ctx.group, ctx.vocab_size, ctx.chunk = group, vocab_size, chunk
        ctx.main_grad = getattr(weight, "main_grad", None)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs, _):
        hidden, weight, targets, normalizer = ctx.saved_tensors
        rows = LocalRows(weight, ctx.group, ctx.vocab_size)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.main_grad is None else ctx.main_grad
        for part in chunks(len(targets), ctx.chunk):
            # d logp(y) / d logit_j = [j == y] - softmax_j
            grad = rows.logits(hidden[part]).sub_(normalizer[part, None]).exp_().mul_(-grad_logprobs[part, None])
            rows.add_at(grad, targets[part], grad_logprobs[part])
            grad = grad.to(hidden.dtype)
            grad_hidden[part] = grad @ rows.weight
            rows.accumulate(grad_weight, grad, hidden[part])
        returned = grad_weight.to(weight.dtype) if ctx.main_grad is None else None
        return grad_hidden, returned, None, None, None, None


def from_sums(sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probability, entropy, log sum exp) of each token, [tokens], of logits l that are taken relative to their maximum.

    sums: [3, tokens]: sum exp l, sum of l exp l, and the target's l.
    """
    log_sum = sums[0].log()
    return sums[2] - log_sum, log_sum - sums[1] / sums[0], log_sum


class LocalRows:
    """This rank's rows of the LM head, without padding, and where they start in the vocabulary."""

    def __init__(self, weight: Tensor, group: dist.ProcessGroup, vocab_size: int):
        self.first = len(weight) * group.rank()
        self.weight = weight[: vocab_size - self.first]
        assert len(self.weight) > 0, f"TP rank {group.rank()} would hold padding only: vocabulary {vocab_size}, {len(weight)} rows a rank"

    def logits(self, hidden: Tensor) -> Tensor:
        """[chunk, hidden] -> [chunk, rows] in float32."""
        return product(hidden, self.weight.t())

    def accumulate(self, grad_weight: Tensor, grad: Tensor, hidden: Tensor) -> None:
        """Add the product of grad [chunk, rows] and hidden [chunk, h] to grad_weight [padded rows, h], which is float32."""
        mine = grad_weight[: len(self.weight)]
        if grad.dtype == mine.dtype:
            mine.addmm_(grad.t(), hidden)  # in place: the product of a chunk is as large as the head
        else:
            mine += product(grad.t(), hidden)

    def has(self, targets: Tensor) -> Tensor:
        """Whose row is here: [chunk], bool."""
        return (targets >= self.first) & (targets < self.first + len(self.weight))

    def _local(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (targets - self.first).clamp(0, len(self.weight) - 1)[:, None], self.has(targets)

    def pick(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The target's logit where its row is here, else 0: [chunk]."""
        local, mine = self._local(targets)
        return logits.gather(1, local)[:, 0] * mine

    def add_at(self, grad: Tensor, targets: Tensor, value: Tensor) -> None:
        """Add value [chunk] at the target's column where its row is here."""
        local, mine = self._local(targets)
        grad.scatter_add_(1, local, (value * mine)[:, None])


def product(one: Tensor, other: Tensor) -> Tensor:
    """[n, k] @ [k, m] in float32, also of bfloat16, whose sums a GPU rounds only if asked to. On a CPU torch rounds them all the same."""
    if one.is_cuda and one.dtype != torch.float32:
        return torch.mm(one, other, out_dtype=torch.float32)
    return (one @ other).float()


def chunks(tokens: int, size: int) -> Iterator[slice]:
    """Of so many tokens each, but the last."""
    return (slice(start, start + size) for start in range(0, tokens, size))
