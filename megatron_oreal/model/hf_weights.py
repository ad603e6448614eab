"""The one table between Megatron's weights and Hugging Face's: loading, export and weight sync all go through it.

A row says how one Megatron parameter is made of Hugging Face tensors (`shard`) and taken apart again (`join`), for any TP.
Shapes: H hidden, F feed-forward, V vocabulary, D head_dim, a query heads, g key-value heads (groups).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor


class TensorSource(Protocol):
    """Where Hugging Face tensors come from; a slice is enough, so a file need not be read whole."""

    def __getitem__(self, name: str): ...
    def __contains__(self, name: object) -> bool: ...


@dataclass(frozen=True)
class Dims:
    """What a layout needs to know of the model."""

    heads: int
    groups: int
    head_dim: int
    vocab: int  # rows of the real vocabulary


@dataclass(frozen=True)
class Layout:
    """How a parameter is split over TP.

    shard(sources, rank, tp, dims) -> this rank's tensor; join(those of every TP rank [tp, ...], dims) -> the Hugging Face tensors, as
    views where that is possible.
    """

    shard: Callable[[list, int, int, Dims], Tensor]
    join: Callable[[Tensor, Dims], list[Tensor]]


def _rows(source, rank: int, tp: int) -> Tensor:
    """Rows of this rank: dimension 0 split evenly."""
    size = source.shape[0] // tp
    return source[rank * size : (rank + 1) * size]


def _shard_row_parallel(sources, rank, tp, dims):
    size = sources[0].shape[1] // tp
    return sources[0][:, rank * size : (rank + 1) * size]


def _shard_qkv(sources, rank, tp, dims):
    """q [a*D, ...], k [g*D, ...], v [g*D, ...] -> groups of (a/g query heads, one key head, one value head)."""
    parts = [_rows(s, rank, tp) for s in sources]
    groups = dims.groups // tp
    return torch.cat([p.reshape(groups, -1, *p.shape[1:]) for p in parts], dim=1).flatten(0, 1)


def _join_qkv(parts, dims):
    whole = parts.flatten(0, 1)
    repeat = dims.heads // dims.groups
    split = whole.view(dims.groups, (repeat + 2) * dims.head_dim, *whole.shape[1:])
    sizes = [repeat * dims.head_dim, dims.head_dim, dims.head_dim]
    return [p.flatten(0, 1) for p in split.split(sizes, dim=1)]


def _join_gated(parts, dims):
    return [half.flatten(0, 1) for half in parts.chunk(2, dim=1)]


def _join_row_parallel(parts, dims):
    return [parts[0] if len(parts) == 1 else torch.cat(parts.unbind(), dim=1)]


def _shard_vocab(sources, rank, tp, dims):
    """Rows of this rank of the vocabulary, zeros beyond its end (the padding that makes it divide by TP)."""
    size = -(-dims.vocab // tp)
    rows = sources[0][rank * size : min((rank + 1) * size, dims.vocab)]
    return rows if len(rows) == size else torch.nn.functional.pad(rows, (0, 0, 0, size - rows.shape[0]))


COPY = Layout(lambda sources, rank, tp, dims: sources[0][:], lambda parts, dims: [parts[0]])
ROW = Layout(_shard_row_parallel, _join_row_parallel)
QKV = Layout(_shard_qkv, _join_qkv)
GATED = Layout(lambda sources, rank, tp, dims: torch.cat([_rows(s, rank, tp) for s in sources]), _join_gated)
VOCAB = Layout(_shard_vocab, lambda parts, dims: [parts.flatten(0, 1)[: dims.vocab]])

MODEL_TABLE: dict[str, tuple[Layout, tuple[str, ...]]] = {
    "embedding.word_embeddings.weight": (VOCAB, ("model.embed_tokens.weight",)),
    "decoder.final_layernorm.weight": (COPY, ("model.norm.weight",)),
    "output_layer.weight": (VOCAB, ("lm_head.weight",)),
}
HEAD_NAME = "score.weight"
TOKEN_RM_HEAD = (COPY, (HEAD_NAME,))
"""Row of `output_layer.weight` [1, H] of a token RM, as in transformers' sequence- and token-classification models."""
LAYER_TABLE: dict[str, tuple[Layout, tuple[str, ...]]] = {  # below decoder.layers.N / model.layers.N
    "input_layernorm.weight": (COPY, ("input_layernorm.weight",)),
    "self_attention.linear_qkv.layer_norm_weight": (COPY, ("input_layernorm.weight",)),  # Transformer Engine's fused name
    "self_attention.linear_qkv.weight": (QKV, tuple(f"self_attn.{x}_proj.weight" for x in "qkv")),
    "self_attention.linear_qkv.bias": (QKV, tuple(f"self_attn.{x}_proj.bias" for x in "qkv")),
    "self_attention.q_layernorm.weight": (COPY, ("self_attn.q_norm.weight",)),
    "self_attention.k_layernorm.weight": (COPY, ("self_attn.k_norm.weight",)),
    "self_attention.linear_proj.weight": (ROW, ("self_attn.o_proj.weight",)),
    "pre_mlp_layernorm.weight": (COPY, ("post_attention_layernorm.weight",)),
    "mlp.linear_fc1.layer_norm_weight": (COPY, ("post_attention_layernorm.weight",)),  # Transformer Engine's fused name
    "mlp.linear_fc1.weight": (GATED, ("mlp.gate_proj.weight", "mlp.up_proj.weight")),
    "mlp.linear_fc2.weight": (ROW, ("mlp.down_proj.weight",)),
}


@dataclass(frozen=True)
class Entry:
    """One parameter of this rank with its row of the table."""

    name: str  # Megatron's, in this rank's model
    parameter: torch.nn.Parameter
    layout: Layout
    hf_names: tuple[str, ...]


def entries(model: GPTModel) -> Iterator[Entry]:
    """Every parameter of this rank's stage, in the model's order.

    Raises:
        ValueError: a parameter that the table does not know, with its name.
    """
    offset = get_transformer_layer_offset(model.config, model.vp_stage, parallel_state.get_pipeline_model_parallel_rank())
    has_score_head = model.post_process and not hasattr(model.output_layer, "output_size")
    for name, parameter in model.named_parameters():
        layout, hf_names = TOKEN_RM_HEAD if has_score_head and name == "output_layer.weight" else _row(name, offset)
        if name == "output_layer.weight" and model.share_embeddings_and_output_weights:
            hf_names = MODEL_TABLE["embedding.word_embeddings.weight"][1]
        yield Entry(name, parameter, layout, hf_names)


def _row(name: str, layer_offset: int) -> tuple[Layout, tuple[str, ...]]:
    if name in MODEL_TABLE:
        return MODEL_TABLE[name]
    prefix, _, rest = name.partition("decoder.layers.")
    number, _, rest = rest.partition(".")
    if prefix or rest not in LAYER_TABLE:
        raise ValueError(f"hf_weights: no row for the Megatron parameter {name!r}")
    layout, hf_names = LAYER_TABLE[rest]
    return layout, tuple(f"model.layers.{int(number) + layer_offset}.{n}" for n in hf_names)


def load(chunks: Sequence[GPTModel], source: TensorSource, dims: Dims) -> None:
    """Fill this rank's parameters from Hugging Face tensors. A token RM's head stays zero where the source is a language model.

    Raises:
        KeyError: a tensor that the source lacks (the source names it).
        ValueError: a shape that differs, with the names.
    """
    rank, tp = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    for entry in (e for chunk in chunks for e in entries(chunk)):
        if entry.hf_names == (HEAD_NAME,) and HEAD_NAME not in source:
            continue
        value = entry.layout.shard([source[n] for n in entry.hf_names], rank, tp, dims)
        if value.shape != entry.parameter.shape:
            raise ValueError(f"hf_weights: {' + '.join(entry.hf_names)} give {tuple(value.shape)}, not {tuple(entry.parameter.shape)}")
        with torch.no_grad():
            entry.parameter.copy_(value)


def export(chunks: Sequence[GPTModel], dims: Dims) -> Iterator[tuple[str, Tensor]]:
    """The Hugging Face tensors of this rank's pipeline stage, whole, on every TP rank of it.

    Collective over the TP group: all its ranks must iterate to the end. A tied LM head is not repeated.
    """
    group = parallel_state.get_tensor_model_parallel_group()
    for chunk, entry in ((c, e) for c in chunks for e in entries(c)):
        if entry.hf_names == ("model.embed_tokens.weight",) and not chunk.pre_process:
            continue  # the last stage's copy of a tied embedding
        local = entry.parameter.detach().contiguous()
        parts = local[None]
        if group.size() > 1 and entry.layout is not COPY:
            parts = local.new_empty(group.size(), *local.shape)  # one tensor, in which most layouts find theirs as views
            torch.distributed.all_gather(list(parts.unbind()), local, group=group)
        yield from zip(entry.hf_names, entry.layout.join(parts, dims), strict=True)
