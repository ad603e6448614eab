"""Forward and backward of a batch's micro-batches through Megatron's pipeline schedules."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_oreal.learn.batch import MicroBatch

Loss = Callable[[MicroBatch, Tensor], tuple[Tensor | None, Any]]
"""(micro-batch, what the last stage returned) -> (loss with global denominators, what to keep)."""


def run(model: torch.nn.Module, micro_batches: Sequence[MicroBatch], positions: str, loss: Loss, *, backward: bool) -> list[Any]:
    """Send every micro-batch through all stages; on the last stage `loss` is called once a micro-batch, in order.

    Args:
        positions: the field of MicroBatch that says where to read: "logprob_positions" or "score_positions".
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
            labels=micro.targets,
            loss_mask=getattr(micro, positions),
        )
        return output, lambda out: _with_token_count(*loss(micro, out), out)

    with torch.enable_grad() if backward else torch.no_grad():
        return get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(micro_batches),
            model=model,
            num_microbatches=len(micro_batches),
            seq_length=micro_batches[0].tokens.shape[1],  # stages tell each other the real one (variable_seq_lengths)
            micro_batch_size=1,
            forward_only=not backward,
        )


def _with_token_count(value: Tensor | None, kept: Any, output: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Megatron wants a token count beside the loss; ours is not used (see optimizer.sum_gradients)."""
    value = output.sum() * 0 if value is None else value
    return value, torch.ones((), dtype=torch.int, device=output.device), kept
