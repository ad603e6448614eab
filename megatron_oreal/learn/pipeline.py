"""Forward and backward of a batch's micro-batches through Megatron's pipeline schedules."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_oreal.learn.batch import MicroBatch

Loss = Callable[[MicroBatch, Tensor], tuple[Tensor | None, Any]]
"""(micro-batch, what the last stage returned) -> (loss with global denominators, what to keep)."""


def run(chunks: Sequence[torch.nn.Module], micro_batches: Sequence[MicroBatch], reading: str, loss: Loss, *, backward: bool) -> list[Any]:
    """Send every micro-batch through all stages; on the last stage `loss` is called once a micro-batch, in order.

    Args:
        chunks: this rank's part of the model, several in an interleaved pipeline.
        reading: the field of MicroBatch that says where to read: "logprobs" or "scores".
        backward: accumulate gradients of the losses' SUM (their denominators are global already).

    Returns:
        What `loss` kept, a list in micro-batch order on the last stage, empty on the others.
    """

    def forward_step(iterator, model):
        micro = next(iterator)
        output = model(
            input_ids=micro.tokens,
            position_ids=None,
            attention_mask=None,
            packed_seq_params=micro.packed,
            labels=getattr(micro, reading),
        )
        return output, lambda out: _with_token_count(*loss(micro, out), out)

    interleaved = len(chunks) > 1
    iterators = [iter(micro_batches) for _ in chunks]
    with torch.enable_grad() if backward else torch.no_grad():
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if interleaved else iterators[0],
            model=list(chunks) if interleaved else chunks[0],
            num_microbatches=len(micro_batches),
            seq_length=int(micro_batches[0].packed.cu_seqlens_q[-1]),  # stages tell each other where others differ
            micro_batch_size=1,
            forward_only=not backward,
        )


def _with_token_count(value: Tensor | None, kept: Any, output: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Megatron wants a token count beside the loss; ours is not used (see optimizer.sum_gradients)."""
    value = output.sum() * 0 if value is None else value
    return value, torch.ones((), dtype=torch.int, device=output.device), kept
