"""Which models can be trained, and how they divide over ranks: asked of the fields of a config.json, and so before torch is imported."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_oreal.model.config import Layout

FAMILIES = {  # model_type of the HF config -> (bias on q, k, v; norm on q and k)
    "qwen2": (True, False),
    "qwen3": (False, True),
    "llama": (False, False),
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
DTYPES = ("float64", "float32", "float16", "bfloat16")
LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Parameters of Llama 3's rope scaling that Megatron fixes; only the factor varies."""


def check_fields(hf: Mapping, layout: Layout) -> None:
    """Whether a model is one that is mapped, and divides by the layout. A field that is left out is not checked.

    Args:
        hf: a config.json as it is written, or all fields of a transformers config, which has a default for what is left out.
    Raises:
        ValueError: a line for each thing that does not fit.
    """
    kind = hf.get("model_type")
    if kind is not None and kind not in FAMILIES:
        raise ValueError(f"model: architecture {kind!r} is not one of {', '.join(FAMILIES)}")
    wrong = [*_not_meant(hf)] or [*_not_computed(hf), *_not_divided(hf, layout)]
    if wrong:
        raise ValueError("\n".join(f"model: {line}" for line in wrong))


def check_written(folder: str, layout: Layout) -> None:
    """check_fields of model.path as its config.json is written: whoever starts ranks asks before anything heavy is imported.

    Raises:
        ValueError: also where there is none, or it is no JSON object.
    """
    check_fields(_written(folder), layout)


def _written(folder: str) -> dict:
    """A config.json. Raises ValueError where there is none, or it is no JSON object."""
    file = config_file(folder, "model.path")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"model.path: {file} cannot be read ({error})") from error


def config_file(folder: str | Path, key: str = "model") -> Path:
    """The config.json of a model folder; ValueError, which begins with the key, where there is none."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise ValueError(f"{key}: {folder} is no Hugging Face model folder (config.json is missing)")
    return file


def check_positions(folder: str, longest: int) -> None:
    """Whether prompt and response fit a model as its config.json is written: engines refuse what does not, and training computes nonsense.

    Args:
        longest: rollout.max_total_tokens.
    Raises:
        ValueError: they do not; or as check_written.
    """
    hf = _written(folder)
    positions, rope = hf.get("max_position_embeddings"), hf.get("rope_scaling") or hf.get("rope_parameters")
    if not isinstance(positions, int):
        return
    factor = rope.get("factor", 1) if isinstance(rope, Mapping) and rope.get("rope_type") != "llama3" else 1
    if isinstance(factor, int | float) and "original_max_position_embeddings" not in (rope or {}):
        positions = int(positions * factor)  # as engines count: beside the original number stands that of the scaled rope
    if longest >= positions:
        raise ValueError(f"rollout.max_total_tokens={longest} must be below the {positions} positions of the model in {folder}")


def _not_meant(hf: Mapping) -> Iterator[str]:
    """Fields that are no numbers, or no tables, where they have to be: transformers takes some of them as they are."""
    for name in (*SIZES, "max_position_embeddings"):
        value = hf.get(name)
        if not (value is None or (isinstance(value, int) and value >= 1)):
            yield f"{name} {value!r} must be a whole number, at least 1"
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(hf.get(name) or {}, Mapping):
            yield f"{name} {hf[name]!r} must be a table, or null"
        else:
            yield from _not_positive(hf.get(name) or {}, f"{name}.")
    yield from _not_positive(hf, "")
    for name in ("dtype", "torch_dtype"):
        if isinstance(hf.get(name), str) and hf[name] not in DTYPES:
            yield f"{name} {hf[name]!r} must be what the weights are stored in, {', '.join(DTYPES)}"
    if not isinstance(hf.get("layer_types") or [], list):
        yield f"layer_types {hf['layer_types']!r} must be a list"
    if hf.get("quantization_config"):
        yield "quantization_config: quantized weights cannot be trained; where they are plain, take it out of config.json"


def _not_positive(table: Mapping, path: str) -> Iterator[str]:
    for name in ("rope_theta", "factor"):
        value = table.get(name, 1)
        if not (isinstance(value, int | float) and value > 0):
            yield f"{path}{name} {value!r} must be a number above 0"


def _not_divided(hf: Mapping, layout: Layout) -> Iterator[str]:
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "num_hidden_layers")
    written = [hf.get(name) for name in names]
    heads, groups, feed_forward, layers = (size if isinstance(size, int) else None for size in written)  # else transformers refuses it
    if heads is not None and groups is not None and (groups < 1 or heads % groups):
        yield f"{heads} attention heads cannot share {groups} key-value heads evenly"
    stage = None if layers is None or layers % layout.pp else layers // layout.pp
    for what, size, name, parts in (
        ("attention heads", heads, "tp", layout.tp),
        ("key-value heads", groups, "tp", layout.tp),
        ("feed-forward size", feed_forward, "tp", layout.tp),
        ("layers", layers, "pp", layout.pp),
        ("layers of a stage", stage, "vpp", layout.vpp or 1),
    ):
        if size is not None and size % parts:
            yield f"{size} {what} cannot be split over parallel.{name}={parts}"


def _not_computed(hf: Mapping) -> Iterator[str]:
    for field, asked, supported in _computation(hf):
        if asked not in supported:
            yield f"{field} {asked!r} is not supported, only {' and '.join(map(repr, supported))}"


def _computation(hf: Mapping) -> Iterator[tuple[str, object, tuple]]:
    """What a config may ask a layer to compute, beside its sizes: (field, value, values that are supported)."""
    rope = hf.get("rope_scaling") or hf.get("rope_parameters") or {}  # as written before transformers 5, and since
    kind = rope.get("rope_type", rope.get("type", "default"))
    yield "rope type", kind, ("default", "llama3")
    if kind == "llama3":
        yield from ((f"rope_parameters.{name}", rope.get(name, value), (value,)) for name, value in LLAMA3_ROPE.items())
    yield "rope_parameters.partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), (1.0,)
    yield "hidden_act", hf.get("hidden_act", "silu"), ("silu",)
    for name in ("attention_bias", "mlp_bias"):
        yield name, hf.get(name, False), (False,)
    for kind in set(hf.get("layer_types") or ()):
        yield "layer type", kind, ("full_attention",)
