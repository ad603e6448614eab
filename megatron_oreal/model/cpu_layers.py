"""Norm and attention for the CPU layer spec, where Megatron's local ones refuse sequence parallelism or packed sequences.

On GPU the Transformer Engine spec brings its own (see spec.py); nothing here is used there.
"""

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


class CpuRMSNorm(torch.nn.RMSNorm):
    """RMSNorm whose weight takes part in sequence parallelism (its gradient is summed over the TP ranks)."""

    def __init__(self, config, hidden_size: int, eps: float = 1e-6, **_):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel


class CpuCoreAttention(MegatronModule):
    """Causal attention over packed sequences by SDPA, one padded row a sequence.

    Stands in the place of TEDotProductAttention: query [tokens, heads/tp, head_dim], key and value
    [tokens, groups/tp, head_dim] -> [tokens, heads/tp * head_dim]. Rows are right-padded, and causal attention never looks to
    the right, so the padding is never seen by a real token.
    """

    def __init__(self, config, softmax_scale: float | None = None, **_):
        super().__init__(config)
        self.softmax_scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask=None, packed_seq_params: PackedSeqParams = None, **_
    ) -> Tensor:
        rows = _Rows(packed_seq_params.cu_seqlens_q.long(), packed_seq_params.max_seqlen_q)
        q, k, v = (rows.pad(x).transpose(1, 2) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.softmax_scale, enable_gqa=True)
        return rows.unpad(out.transpose(1, 2)).reshape(query.shape[0], -1)


class _Rows:
    """Where each packed token lies in the padded [sequences, longest] layout."""

    def __init__(self, cu_seqlens: Tensor, longest: int):
        lengths = cu_seqlens[1:] - cu_seqlens[:-1]
        self.shape = (len(lengths), longest)
        within = torch.arange(int(cu_seqlens[-1])) - torch.repeat_interleave(cu_seqlens[:-1], lengths)
        self.index = torch.repeat_interleave(torch.arange(len(lengths)), lengths) * longest + within

    def pad(self, packed: Tensor) -> Tensor:
        """[tokens, h, d] -> [sequences, longest, h, d]."""
        flat = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
        return flat.index_copy(0, self.index, packed).view(*self.shape, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[sequences, longest, h, d] -> [tokens, h, d]."""
        return padded.reshape(-1, *padded.shape[2:]).index_select(0, self.index)
