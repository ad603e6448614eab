"""A model's parameters and their place in a Megatron checkpoint, for any layout, without memory, processes or a GPU.

Megatron itself is asked: each rank's model is built on the meta device, in one process under torch's fake process group.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, apply_factories
from torch import Tensor
from torch.overrides import TorchFunctionMode

from megatron_oreal.model import gpt, hf_weights
from megatron_oreal.model.compute import PLAIN, Compute
from megatron_oreal.model.config import ONE_RANK, Layout
from megatron_oreal.model.hf_files import HFFolder, read_config
from megatron_oreal.model.hf_weights import Dims, Entry
from megatron_oreal.model.platform import Platform

HEADS = {"ForCausalLM": "policy", "ForTokenClassification": "token_rm", "ForSequenceClassification": "token_rm"}
TE_STATES = ("final_layernorm.weight", "q_layernorm.weight", "k_layernorm.weight")
"""Norms for which Transformer Engine's model asks for an (empty) extra state that the local one does not have."""


@dataclass(frozen=True)
class Piece:
    """A part of a parameter that is one chunk of a tensor in a Megatron checkpoint."""

    key: str  # of the checkpoint's tensor; equal layers share one, with the layer as first axis
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    may_be_padded: bool  # rows of the vocabulary: their number depends on TP
    _view: tuple[torch.Size, tuple[int, ...], int]  # size, stride, storage offset in the parameter

    def of(self, parameter: Tensor) -> Tensor:
        """This piece of the (contiguous) parameter, as a view in the chunk's shape."""
        size, stride, offset = self._view
        return parameter.as_strided(size, stride, parameter.storage_offset() + offset).view(self.sizes)


@dataclass(frozen=True)
class RankContents:
    """What a rank with these coordinates holds."""

    tp_rank: int
    entries: list[tuple[Entry, list[Piece]]]  # pieces are empty where another rank writes the same parameter
    objects: list[str]  # keys of the checkpoint's (empty) extra states that this rank writes


def role_of(hf) -> gpt.Role:
    """Policy or token RM, by the head that a config's `architectures` names (none: a language model).

    Raises:
        ValueError: another head.
    """
    name = (getattr(hf, "architectures", None) or ["ForCausalLM"])[0]
    role = next((role for suffix, role in HEADS.items() if name.endswith(suffix)), None)
    if role is None or (role == "token_rm" and hf.num_labels != 1):
        raise ValueError(f"model: {name} with {hf.num_labels} labels is neither a language model nor a reward model with one score")
    return role


def dims_of(hf) -> Dims:
    """What the weight table needs to know of a config."""
    return Dims(hf.num_attention_heads, hf.num_key_value_heads, gpt.head_dim(hf), hf.vocab_size)


def is_tied(hf, role: gpt.Role) -> bool:
    """Whether the LM head is the embedding."""
    return role == "policy" and hf.tie_word_embeddings


def hf_shapes(hf, role: gpt.Role) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every Hugging Face tensor that a model is made of, in the model's order, by the weight table."""
    (whole,) = rank_contents(hf, role, ONE_RANK)
    dims, shapes = dims_of(hf), {}
    for entry, _ in whole.entries:
        joined = entry.layout.join(entry.parameter.detach()[None], dims)
        shapes |= {n: tuple(t.shape) for n, t in zip(entry.hf_names, joined, strict=True)}
    return shapes


def open_model(folder: str | Path, role: gpt.Role | None = None, layout: Layout = ONE_RANK) -> tuple[object, gpt.Role, HFFolder]:
    """A Hugging Face folder, checked: its config is one that is mapped, and its files hold what the weight table asks for.

    Args:
        role: what is to be made of it; None: what it says it is.
        layout: what the model must divide by.
    Returns:
        transformers config, role, tensors.
    Raises:
        ValueError: one line with the file, or the names of tensors.
    """
    config, source = read_config(folder), HFFolder(folder)
    gpt.check_architecture(config, layout)
    role = role or role_of(config)
    source.check(hf_shapes(config, role), is_tied(config, role))
    return config, role, source


def rank_contents(hf, role: gpt.Role, layout: Layout) -> Iterator[RankContents]:
    """What each rank of a TP x PP layout holds, in rank order. No process group may exist.

    Raises:
        ValueError: an architecture that is not mapped, or one that does not divide by the layout.
    """
    gpt.check_architecture(hf, layout)
    compute = Compute(Platform(torch.device("meta"), "fake"), torch.float32, PLAIN, "torch", "chunked")
    for rank in range(layout.tp * layout.pp):
        with _pretending(rank, layout), torch.device("meta"), _StaysOnMeta():
            (model,) = gpt.build(hf, role, layout, compute)
            held = _contents(model)
        yield held  # outside: whoever works with it between two ranks is none of them, and has a device


def _contents(model) -> RankContents:
    sharded = model.sharded_state_dict(metadata={})
    apply_factories(sharded)
    entries, objects = [], []
    for entry in hf_weights.entries(model):
        tensors = [t for t in nested_values({"": sharded[entry.name]}) if _is_written(t)]
        entries.append((entry, [_piece(t) for t in tensors]))
        if entry.name.endswith(TE_STATES) and tensors:
            objects.append(_state_beside(tensors[0]).unique_key)
    objects += [v.unique_key for v in nested_values(sharded) if isinstance(v, ShardedObject) and _is_written(v)]
    return RankContents(parallel_state.get_tensor_model_parallel_rank(), entries, objects)


def _is_written(sharded: ShardedTensor | ShardedObject) -> bool:
    """Whether this rank writes it; the others hold the same."""
    replica = sharded.replica_id
    return all(r == 0 for r in replica) if isinstance(replica, tuple) else replica == 0


def _piece(t: ShardedTensor) -> Piece:
    return Piece(
        key=t.key,
        global_shape=tuple(t.global_shape),
        offsets=tuple(t.global_offset),
        sizes=(1,) * t.prepend_axis_num + tuple(t.local_shape),
        may_be_padded=t.allow_shape_mismatch,
        _view=(t.data.size(), t.data.stride(), t.data.storage_offset()),
    )


def _state_beside(t: ShardedTensor) -> ShardedObject:
    axes = t.prepend_axis_num
    shape, offset = (t.global_shape[:axes], t.global_offset[:axes]) if axes else ((1,), (0,))
    return ShardedObject(t.key.removesuffix("weight") + "_extra_state", None, shape, offset)


class _StaysOnMeta(TorchFunctionMode):
    """Megatron moves a tied embedding with .cuda() when it builds a pipeline; what has no storage cannot move."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func is Tensor.cuda else func(*args, **kwargs or {})


@contextmanager
def _pretending(rank: int, layout: Layout) -> Iterator[None]:
    """This process is `rank` of the layout; no collective works."""
    from torch.testing._internal.distributed import fake_pg

    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=rank, world_size=layout.tp * layout.pp)
    try:
        parallel_state.initialize_model_parallel(layout.tp, layout.pp, create_gloo_process_groups=False)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
