"""Sizes of a model, from its config.json alone: for whoever must know them at once, without transformers, torch or Megatron."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_oreal.model.architecture import config_file

CHUNK_BYTES = 128 * 2**20
"""Of the float32 logits that exist at one time: of 1,024 tokens where 152k words are split over TP 8 or 4, of 220 where they are not."""
CHUNK_TOKENS = range(128, 1025)
"""Fewer make the products slow, more save nothing."""
STRIP = 1024
"""Words whose sums a kernel keeps on the chip."""
GRADIENT_BYTES = 256 * 2**20
"""Of the logits' gradient that exists at one time."""
LEAST_TOKENS = 2048
"""The head's gradient is read and written once a chunk, 8 bytes for the 6 x tokens FLOPs of its chunk: at 770 TFLOP/s and 3 TB/s that is
340/tokens of the chunk's time, a sixth here. Of a head that is not split (152k words) such a chunk is 0.6 GiB."""
TOKENS_MULTIPLE = 128
"""A kernel's tile; and every chunk starts at an address for which it is compiled already."""


@dataclass(frozen=True)
class Shape:
    """The fields of a transformers config that sizes depend on, under its names."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None
    tie_word_embeddings: bool

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Shape":
        """Of the fields of a config.json. Raises KeyError where one is missing that has no default."""
        optional = {"num_key_value_heads": fields["num_attention_heads"], "head_dim": None, "tie_word_embeddings": False}
        return cls(
            **{name: optional[name] if name in optional and fields.get(name) is None else fields[name] for name in cls.__annotations__}
        )


def read_shape(folder: str | Path) -> Shape:
    """Of a Hugging Face folder.

    Raises:
        ValueError: its config.json is missing, or does not say all sizes.
    """
    path = config_file(folder)
    try:
        return Shape.of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"model: {path} does not say the model's sizes ({type(error).__name__}: {error})") from error


def head_dim(hf) -> int:
    """Channels of one attention head."""
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def padded_vocab_size(hf, tp: int) -> int:
    """The vocabulary rounded up so that each TP rank holds as many rows."""
    return -(-hf.vocab_size // tp) * tp


def cache_bytes_per_token(hf, tp: int, number: int) -> int:
    """Keys and values of one token in all layers, on one of an engine's TP ranks. `number`: bytes of one."""
    return 2 * hf.num_hidden_layers * -(-hf.num_key_value_heads // tp) * head_dim(hf) * number


def chunk_tokens(rows: int) -> int:
    """Tokens whose logits are computed together, over so many rows of the LM head."""
    return min(max(CHUNK_BYTES // (4 * rows), CHUNK_TOKENS.start), CHUNK_TOKENS.stop - 1)


def fused_chunk_tokens(rows: int, number: int) -> int:
    """Tokens whose logits' gradient exists at one time, over so many rows of the LM head, in numbers of so many bytes."""
    return max(GRADIENT_BYTES // (number * rows) // TOKENS_MULTIPLE * TOKENS_MULTIPLE, LEAST_TOKENS)
