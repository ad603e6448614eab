"""Norm and attention for the CPU layer spec, where Megatron's local ones refuse sequence parallelism or packed sequences.

On GPU the Transformer Engine spec brings its own (see platform.py); nothing here is used there.
"""

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from megatron_oreal.model.split import Split


class CpuRMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight takes part in sequence parallelism (its gradient is summed over the TP ranks)."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-6, **_):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class CpuCoreAttention(MegatronModule):
    """Causal attention over packed sequences by SDPA, one padded row a sequence, also under context parallelism.

    Stands in the place of TEDotProductAttention: query [tokens/cp, heads/tp, head_dim], key and value
    [tokens/cp, groups/tp, head_dim] -> [tokens/cp, heads/tp * head_dim]. Under context parallelism each sequence is split as in
    model.split.Split, and keys and values are gathered from all ranks.
    """

    def __init__(self, config, softmax_scale: float | None = None, pg_collection=None, **_):
        super().__init__(config)
        self.softmax_scale = softmax_scale
        self.cp = pg_collection.cp

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask=None, packed_seq_params: PackedSeqParams = None, **_
    ) -> Tensor:
        bounds = packed_seq_params.cu_seqlens_q.long()
        lengths, longest = bounds[1:] - bounds[:-1], packed_seq_params.max_seqlen_q
        if self.cp.size() == 1:
            rows = _Rows(lengths, longest)
            # Rows are padded on the right, and causal attention never looks to the right: no real token sees the padding.
            out = self._attend(rows.pad(query), rows.pad(key), rows.pad(value), None)
            return rows.unpad(out).reshape(query.shape[0], -1)
        mine, whole = _Rows(lengths // self.cp.size(), longest // self.cp.size()), _Rows(lengths, longest)
        positions = [_positions(lengths.tolist(), self.cp.size(), rank) for rank in range(self.cp.size())]
        key, value = (self._gather(x, positions, bounds) for x in (key, value))
        query_position = mine.pad(positions[self.cp.rank()])
        mask = query_position[:, None, :, None] >= torch.arange(longest)[None, None, None, :]
        return mine.unpad(self._attend(mine.pad(query), whole.pad(key), whole.pad(value), mask)).reshape(query.shape[0], -1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=self.softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    def _gather(self, local: Tensor, positions: list[Tensor], bounds: Tensor) -> Tensor:
        """[tokens/cp, ...] of every rank -> [tokens, ...] in the order of the sequences; gradients are summed over the ranks."""
        parts = gather_from_sequence_parallel_region(local.contiguous(), tensor_parallel_output_grad=True, group=self.cp)
        lengths = (bounds[1:] - bounds[:-1]) // self.cp.size()
        places = torch.cat([p + torch.repeat_interleave(bounds[:-1], lengths) for p in positions])
        return torch.empty_like(parts).index_copy(0, places, parts)


def _positions(lengths: list[int], cp: int, rank: int) -> Tensor:
    """[tokens/cp]: the position in its sequence of each token of a context-parallel rank."""
    split = Split(cp, rank)
    return torch.tensor([position for length in lengths for position in split.mine(length)])


class _Rows:
    """Where each packed token lies in the padded [sequences, longest] layout."""

    def __init__(self, lengths: Tensor, longest: int):
        starts = lengths.cumsum(0) - lengths
        self.shape = (len(lengths), longest)
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts, lengths)
        self.index = torch.repeat_interleave(torch.arange(len(lengths)), lengths) * longest + within

    def pad(self, packed: Tensor) -> Tensor:
        """[tokens, ...] -> [sequences, longest, ...], zeros where there is no token."""
        flat = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
        return flat.index_copy(0, self.index, packed).view(*self.shape, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[sequences, longest, ...] -> [tokens, ...]."""
        return padded.reshape(-1, *padded.shape[2:]).index_select(0, self.index)
