"""The three models of OREAL as Megatron GPTModels: what their last pipeline stage returns, and how an HF config builds them."""

from typing import Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_oreal.config import ParallelConfig
from megatron_oreal.model.logprobs import vocab_parallel_logprobs
from megatron_oreal.model.spec import Platform

Role = Literal["policy", "token_rm"]
FAMILIES = {  # model_type of the HF config -> (bias on q, k, v; norm on q and k)
    "qwen2": (True, False),
    "qwen3": (False, True),
    "llama": (False, False),
}


class PolicyModel(GPTModel):
    """A language model whose last stage returns log-probabilities and entropy at chosen positions, not logits.

    GPTModel.forward hands `labels` and `loss_mask` to _postprocess unseen; here they are the targets [responses] and the
    positions [responses] in the packed sequence whose next-token distribution is wanted. Returns [2, responses]:
    log-probabilities (with gradient) and entropies (without), float32.
    """

    def _postprocess(self, hidden_states: Tensor, labels: Tensor, loss_mask: Tensor, **_) -> Tensor:
        if not self.post_process:
            return hidden_states
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else self.output_layer.weight
        hidden = _whole_sequence(hidden_states, self.config.sequence_parallel, self.pg_collection.tp)
        hidden = hidden[:, 0].index_select(0, loss_mask)
        logprobs, entropy = vocab_parallel_logprobs(hidden, weight, labels, self.pg_collection.tp, self.real_vocab_size)
        return torch.stack([logprobs, entropy])


class TokenRewardModel(GPTModel):
    """The policy's architecture with Linear(hidden, 1, no bias), zero at the start, in place of the LM head (spec, Token RM).

    Its last stage returns scores [responses] at the positions given as `loss_mask` (see PolicyModel), float32.
    """

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config=config, **kwargs)
        if self.post_process:
            self.output_layer = _ScoreHead(config)

    def _postprocess(self, hidden_states: Tensor, loss_mask: Tensor, **_) -> Tensor:
        if not self.post_process:
            return hidden_states
        scores = self.output_layer(hidden_states)
        if self.config.sequence_parallel:
            # Every TP rank computes the same loss from the gathered scores, so the backward pass keeps its own part.
            scores = tensor_parallel.gather_from_sequence_parallel_region(
                scores, tensor_parallel_output_grad=False, group=self.pg_collection.tp
            )
        return scores[:, 0, 0].index_select(0, loss_mask)


class _ScoreHead(torch.nn.Module):
    """Linear(hidden, 1, no bias) in float32 arithmetic, whole on every TP rank; zero-initialised."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.zeros(1, config.hidden_size, dtype=config.params_dtype, device="cpu" if config.use_cpu_initialization else "cuda")
        )
        self.weight.sequence_parallel = config.sequence_parallel  # each rank sees a part of the tokens: gradients are summed over TP

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens(/tp), 1, hidden] -> [tokens(/tp), 1, 1], float32."""
        return F.linear(hidden.float(), self.weight.float())


def _whole_sequence(hidden: Tensor, sequence_parallel: bool, group) -> Tensor:
    """[tokens(/tp), 1, hidden] -> [tokens, 1, hidden] on every TP rank, so that its gradient is summed over TP on the way back."""
    if sequence_parallel:
        return tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=group)
    return tensor_parallel.copy_to_tensor_model_parallel_region(hidden, group=group)


def build(hf, role: Role, parallel: ParallelConfig, dtype: torch.dtype, platform: Platform) -> GPTModel:
    """This rank's part of a model, weights unset (see hf_weights.load).

    Args:
        hf: a transformers config of one of FAMILIES.
        role: "policy" (also the reference) or "token_rm".
    Raises:
        ValueError: an architecture that this project does not map, or one that does not divide by the layout.
    """
    check_architecture(hf, parallel)
    config = transformer_config(hf, parallel, dtype, platform)
    first, last = (f() for f in (parallel_state.is_pipeline_first_stage, parallel_state.is_pipeline_last_stage))
    model = (PolicyModel if role == "policy" else TokenRewardModel)(
        config=config,
        transformer_layer_spec=platform.layer_spec(config),
        vocab_size=padded_vocab_size(hf, parallel.tp),
        max_sequence_length=hf.max_position_embeddings,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=role == "policy" and hf.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=hf.rope_parameters["rope_theta"],
    )
    model.real_vocab_size = hf.vocab_size
    return model.to(platform.device)


def transformer_config(hf, parallel: ParallelConfig, dtype: torch.dtype, platform: Platform) -> TransformerConfig:
    """An HF config as Megatron's, for this layout and platform."""
    qkv_bias, qk_norm = FAMILIES[hf.model_type]
    return TransformerConfig(
        num_layers=hf.num_hidden_layers,
        hidden_size=hf.hidden_size,
        ffn_hidden_size=hf.intermediate_size,
        num_attention_heads=hf.num_attention_heads,
        num_query_groups=hf.num_key_value_heads,
        kv_channels=head_dim(hf),
        layernorm_epsilon=hf.rms_norm_eps,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=qkv_bias,
        qk_layernorm=qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method=_leave,  # weights come from a checkpoint; but without an init Megatron does not mark what is split over TP
        output_layer_init_method=_leave,
        tensor_model_parallel_size=parallel.tp,
        pipeline_model_parallel_size=parallel.pp,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        variable_seq_lengths=True,  # packed micro-batches differ in length
        moe_token_dispatcher_type="alltoall",  # no experts here, but variable_seq_lengths insists
        calculate_per_token_loss=True,  # losses come with global denominators: Megatron must not average again
        **platform.transformer_options(),
    )


def _leave(weight: Tensor) -> Tensor:
    return weight


def check_architecture(hf, parallel: ParallelConfig) -> None:
    """Raise one line naming what does not fit, before anything is built."""
    if hf.model_type not in FAMILIES:
        raise ValueError(f"model: architecture {hf.model_type!r} is not one of {', '.join(FAMILIES)}")
    rope = hf.rope_parameters.get("rope_type", "default")
    if rope != "default":
        raise ValueError(f"model: rope type {rope!r} is not supported, only 'default'")
    for what, size, name, parts in (
        ("attention heads", hf.num_attention_heads, "tp", parallel.tp),
        ("key-value heads", hf.num_key_value_heads, "tp", parallel.tp),
        ("feed-forward size", hf.intermediate_size, "tp", parallel.tp),
        ("layers", hf.num_hidden_layers, "pp", parallel.pp),
    ):
        if size % parts:
            raise ValueError(f"model: {size} {what} cannot be split over parallel.{name}={parts}")


def head_dim(hf) -> int:
    """Channels of one attention head."""
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def padded_vocab_size(hf, tp: int) -> int:
    """The vocabulary rounded up so that each TP rank holds as many rows."""
    return -(-hf.vocab_size // tp) * tp
