"""What a GPU's fused kernels keep for the backward pass, as modules that a model can be built from where those kernels are not.

Assumed of Transformer Engine 2.11 and stated here once: a norm keeps its input and one number a token; attention keeps its rotated
queries, its keys and values, its output and one number a head and token, and never the scores (flash-attn and cuDNN alike); SwiGLU keeps
its input alone. Linear layers, rotary embedding and the residual stream are Megatron's own on both sides. SwiGLU runs as
separate operations here, so that its backward pass has a temporary more than the compiled one: an upper bound. Nothing computes.
"""

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_oreal.model.fused_logprobs import Strips
from megatron_oreal.model.platform import Platform


class FusedKernels(Platform):
    """A platform whose layers keep what a GPU's would."""

    def transformer_options(self) -> dict:
        """Those of the CPU, with Megatron's own SwiGLU, which is plain torch."""
        return super().transformer_options() | {"bias_activation_fusion": True}

    def logprob_kernels(self) -> "_LogProbKernels":
        return _LogProbKernels()

    def layer_spec(self, config: TransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
        """Megatron's local layers with the norm and the attention below."""
        spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
        spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = _Norm
        attention = spec.submodules.self_attention.submodules
        attention.core_attention = _Attention
        if config.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = _Norm
        layers = get_num_layers_to_build(config, vp_stage, parallel_state.get_pipeline_model_parallel_rank())
        return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=_Norm)


class _LogProbKernels:
    """What model.logprob_kernels allocates."""

    def strips(self, hidden: Tensor, weight: Tensor, _) -> Strips:
        return Strips.empty(hidden, weight)

    def gradient(self, *_) -> None:
        pass

    def accumulate(self, *_) -> None:
        pass


class _Norm(torch.nn.Module):
    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **_):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden: Tensor) -> Tensor:
        return _NormFunction.apply(hidden, self.weight)


class _NormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)

    @staticmethod
    def backward(ctx, grad: Tensor):
        hidden, weight, _ = ctx.saved_tensors
        return torch.empty_like(hidden), torch.empty_like(weight)


class _Attention(torch.nn.Module):
    def __init__(self, config: TransformerConfig, **_):
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_, **__) -> Tensor:
        return _AttentionFunction.apply(query, key, value).flatten(2)


class _AttentionFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        query, key, value, _, _ = ctx.saved_tensors
        query.new_empty(query.shape, dtype=torch.float32)  # the gradient is added up in float32 before it is rounded
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
