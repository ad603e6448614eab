"""The shape of the model that a run starts from: of its folder where there is one, else one of those that the papers used."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_oreal.model.shape import Shape, read_shape

_QWEN2 = {"model_type": "qwen2", "vocab_size": 152064, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_SMALL = _QWEN2 | {"vocab_size": 151936, "tie_word_embeddings": True, "rope_theta": 1e6, "max_position_embeddings": 32768}
_05B = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
_15B = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2}
_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
_32B = {"hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8}

SHAPES = {  # from the config.json files of the models' Hugging Face pages
    "qwen2.5-0.5b": _SMALL | _05B,
    "qwen2.5-1.5b": _SMALL | _15B,
    "qwen2.5-7b": _QWEN2 | _7B | {"rope_theta": 1e6, "max_position_embeddings": 131072},
    "qwen2.5-32b": _QWEN2 | _32B | {"rope_theta": 1e6, "max_position_embeddings": 131072},
    # Also Qwen2.5-Math-7B, from which it was distilled, but for its longest position.
    "r1-distill-qwen-7b": _QWEN2 | _7B | {"rope_theta": 1e4, "max_position_embeddings": 131072},
    "qwen3-8b": _QWEN2
    | {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288}
    | {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 1e6, "max_position_embeddings": 40960},
}


@dataclass(frozen=True)
class Architecture:
    """A model as its config.json describes it."""

    source: str  # a folder, or a name of SHAPES and why
    fields: dict[str, Any]

    @cached_property
    def sizes(self) -> Shape:
        """The fields that sizes depend on."""
        return Shape.of(self.fields)


def architecture_of(path: str, shape: str | None) -> Architecture:
    """The model to plan with.

    Args:
        path: model.path; empty where it was not given.
        shape: one of SHAPES.
    Raises:
        ValueError: neither is there, or the folder's config.json does not say all sizes.
    """
    if _is_here(path):
        read_shape(path)
        return Architecture(path, json.loads((Path(path) / "config.json").read_text(encoding="utf-8")))
    where = _said(path, shape)
    return Architecture(where, SHAPES[shape])


def _is_here(path: str) -> bool:
    return bool(path) and (Path(path) / "config.json").is_file()


def _said(path: str, shape: str | None) -> str:
    if shape is None:
        raise ValueError(f"plan: model.path={path or 'null'} is no folder here, and plan.shape is not set; shapes: {', '.join(SHAPES)}")
    return f"{shape}, as model.path={path} is not here" if path else shape
