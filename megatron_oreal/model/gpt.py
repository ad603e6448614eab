"""The three models of OREAL as Megatron GPTModels: what their last pipeline stage returns, and how an HF config builds them."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_oreal.model.architecture import FAMILIES, check_fields
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.config import Layout
from megatron_oreal.model.shape import head_dim, padded_vocab_size

Role = Literal["policy", "token_rm"]


@dataclass(frozen=True)
class Reading:
    """Where in this rank's part of a packed sequence values of the response tokens are read.

    Under context parallelism each rank reads its own part of the R response tokens of a micro-batch.
    """

    positions: Tensor  # [mine] in this rank's tokens
    targets: Tensor  # [mine] the response tokens that are predicted or scored
    places: Tensor  # [mine] which of the R response tokens these are
    total: int  # R


class PolicyModel(GPTModel):
    """A language model whose last stage returns log-probabilities and entropy of the response tokens, not logits.

    GPTModel.forward hands `labels` to _postprocess unseen; here it is a Reading. Returns [2, responses]: log-probabilities (with
    gradient) and entropies (without), float32, the same on every TP and CP rank.
    """

    def _postprocess(self, hidden_states: Tensor, labels: Reading, **_) -> Tensor:
        if not self.post_process:
            return hidden_states
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else self.output_layer.weight
        hidden = _whole_sequence(hidden_states, self.config.sequence_parallel, self.pg_collection.tp)
        hidden = hidden[:, 0].index_select(0, labels.positions)
        logprobs, entropy = self.token_logprobs(hidden, weight, labels.targets, self.pg_collection.tp, self.real_vocab_size)
        return _from_all_context_ranks(torch.stack([logprobs, entropy], dim=1), labels, self.pg_collection.cp).t()


class TokenRewardModel(GPTModel):
    """The policy's architecture with Linear(hidden, 1, no bias), zero at the start, in place of the LM head (spec, Token RM).

    Its last stage returns the scores [responses] of a Reading (see PolicyModel), float32.
    """

    def __init__(self, config: TransformerConfig, **kwargs):
        super().__init__(config=config, **kwargs)
        if self.post_process:
            self.output_layer = _ScoreHead(config)

    def _postprocess(self, hidden_states: Tensor, labels: Reading, **_) -> Tensor:
        if not self.post_process:
            return hidden_states
        scores = self.output_layer(hidden_states)
        if self.config.sequence_parallel:
            # Every TP rank computes the same loss from the gathered scores, so the backward pass keeps its own part.
            scores = tensor_parallel.gather_from_sequence_parallel_region(
                scores, tensor_parallel_output_grad=False, group=self.pg_collection.tp
            )
        return _from_all_context_ranks(scores[:, 0].index_select(0, labels.positions), labels, self.pg_collection.cp)[:, 0]


class _ScoreHead(torch.nn.Module):
    """Linear(hidden, 1, no bias) in float32 arithmetic, whole on every TP rank; zero-initialised."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.zeros(1, config.hidden_size, dtype=config.params_dtype, device=None if config.use_cpu_initialization else "cuda")
        )
        self.weight.sequence_parallel = config.sequence_parallel  # each rank sees a part of the tokens: gradients are summed over TP

    def forward(self, hidden: Tensor) -> Tensor:
        """[tokens(/tp), 1, hidden] -> [tokens(/tp), 1, 1], float32."""
        return F.linear(hidden.float(), self.weight.float())


def _from_all_context_ranks(mine: Tensor, reading: Reading, group) -> Tensor:
    """[mine, k] of each context-parallel rank -> [R, k] on all of them; a gradient goes back to the rank that read the value."""
    if group.size() == 1:
        return mine
    placed = mine.new_zeros(reading.total, mine.shape[1]).index_copy(0, reading.places, mine)
    return tensor_parallel.reduce_from_tensor_model_parallel_region(placed, group=group)


def _whole_sequence(hidden: Tensor, sequence_parallel: bool, group) -> Tensor:
    """[tokens(/tp), 1, hidden] -> [tokens, 1, hidden] on every TP rank, so that its gradient is summed over TP on the way back."""
    if sequence_parallel:
        return tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True, group=group)
    return tensor_parallel.copy_to_tensor_model_parallel_region(hidden, group=group)


def build(hf, role: Role, layout: Layout, compute: Compute) -> list[GPTModel]:
    """This rank's part of a model, weights unset (see hf_weights.load): one chunk, or `vpp` of them in an interleaved pipeline.

    Args:
        hf: a transformers config of one of model.architecture.FAMILIES.
        role: "policy" (also the reference) or "token_rm".
    Raises:
        ValueError: an architecture that this project does not map, or one that does not divide by the layout.
    """
    check_architecture(hf, layout)
    config = transformer_config(hf, layout, compute)
    chunks = [None] if layout.vpp is None else range(layout.vpp)
    return [_build_chunk(hf, role, layout.tp, config, compute, vp_stage) for vp_stage in chunks]


def _build_chunk(hf, role: Role, tp: int, config: TransformerConfig, compute: Compute, vp_stage: int | None) -> GPTModel:
    first, last = (
        is_at_end(ignore_virtual=False, vp_stage=vp_stage)
        for is_at_end in (parallel_state.is_pipeline_first_stage, parallel_state.is_pipeline_last_stage)
    )
    model = (PolicyModel if role == "policy" else TokenRewardModel)(
        config=config,
        transformer_layer_spec=compute.platform.layer_spec(config, vp_stage),
        vocab_size=padded_vocab_size(hf, tp),
        max_sequence_length=hf.max_position_embeddings,
        pre_process=first,
        post_process=last,
        share_embeddings_and_output_weights=role == "policy" and hf.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=hf.rope_parameters["rope_theta"],
        rope_scaling=hf.rope_parameters["rope_type"] == "llama3",
        rope_scaling_factor=hf.rope_parameters.get("factor", 1.0),
        vp_stage=vp_stage,
    )
    model.real_vocab_size = hf.vocab_size
    model.token_logprobs = compute.platform.logprobs(compute.logprobs)
    return model.to(compute.platform.device)


def transformer_config(hf, layout: Layout, compute: Compute) -> TransformerConfig:
    """An HF config as Megatron's, for this layout."""
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
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp,
        context_parallel_size=layout.cp,
        sequence_parallel=layout.sequence_parallel,
        params_dtype=compute.dtype,
        pipeline_dtype=compute.dtype,
        bf16=compute.dtype == torch.bfloat16,
        # Packed micro-batches differ in length. Not so in an interleaved pipeline (see learn.batch): on two stages its messages in one
        # direction overtake each other when their sizes differ (gloo, megatron-core 0.16.1).
        variable_seq_lengths=layout.vpp is None,
        moe_token_dispatcher_type="alltoall",  # no experts here, but variable_seq_lengths insists
        calculate_per_token_loss=True,  # losses come with global denominators: Megatron must not average again
        **compute.transformer_options(),
    )


def _leave(weight: Tensor) -> Tensor:
    return weight


def check_architecture(hf, layout: Layout) -> None:
    """Raise ValueError, a line for each thing in a transformers config that does not fit, before anything is built."""
    check_fields(hf.to_dict(), layout)
