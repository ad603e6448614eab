"""Models by the names that papers and logs give them, and devices likewise."""

import re

from megatron_oreal.model.shape import Shape

Sizes = tuple[int, int, int, int, int, int]
"""Hidden size, feed-forward size, layers, heads, key-value heads, channels of a head."""
FAMILIES: dict[str, tuple[str, int, dict[float, Sizes]]] = {  # -> (model_type, vocabulary, billions -> sizes), by config.json
    "qwen2": (
        "qwen2",
        151936,
        {
            0.5: (896, 4864, 24, 14, 2, 64),
            1.5: (1536, 8960, 28, 12, 2, 128),
            3: (2048, 11008, 36, 16, 2, 128),
            7: (3584, 18944, 28, 28, 4, 128),
            14: (5120, 13824, 48, 40, 8, 128),
            32: (5120, 27648, 64, 40, 8, 128),
            72: (8192, 29568, 80, 64, 8, 128),
        },
    ),
    "qwen3": (
        "qwen3",
        151936,
        {
            0.6: (1024, 3072, 28, 16, 8, 128),
            1.7: (2048, 6144, 28, 16, 8, 128),
            4: (2560, 9728, 36, 32, 8, 128),
            8: (4096, 12288, 36, 32, 8, 128),
            14: (5120, 17408, 40, 40, 8, 128),
            32: (5120, 25600, 64, 64, 8, 128),
        },
    ),
    "llama3": (
        "llama",
        128256,
        {
            1: (2048, 8192, 16, 32, 8, 64),
            3: (3072, 8192, 28, 24, 8, 128),
            8: (4096, 14336, 32, 32, 8, 128),
            70: (8192, 28672, 80, 64, 8, 128),
            405: (16384, 53248, 126, 128, 8, 128),
        },
    ),
    "llama": (
        "llama",
        32000,
        {
            7: (4096, 11008, 32, 32, 32, 128),
            13: (5120, 13824, 40, 40, 40, 128),
            34: (8192, 22016, 48, 64, 8, 128),
            70: (8192, 28672, 80, 64, 8, 128),
        },
    ),
    "mistral": ("llama", 32768, {7: (4096, 14336, 32, 32, 8, 128)}),
}
MIXED = ("a3b", "a22b", "a17b", "moe", "mixtral", "deepseek-v", "qwen3.5", "gpt-oss", "kimi", "glm", "minimax", "critic")
"""Names of what is no dense decoder by itself: mixtures of experts, linear attention, several models."""
TIED = 5.0
"""Billions of parameters below which Qwen's models share embedding and head."""


class Cannot(ValueError):
    """Why a published row has no prediction; one line."""


def model_of(name: str, billions: float | None) -> Shape:
    """Raises Cannot where the name is not one that we know."""
    said = name.lower().replace(" ", "-").replace("_", "-")
    if any(word in said for word in MIXED):
        raise Cannot(f"{name} is no dense decoder alone")
    if said.startswith("gpt"):
        return _gpt(billions, name)
    family = _family(said)
    sizes = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)b", said)
    wanted = float(sizes[-1]) if sizes else billions
    kind, vocabulary, known = FAMILIES[family] if family else ("", 0, {})
    if wanted not in known:
        raise Cannot(f"{name}: its sizes are not in plan/published/models.py")
    hidden, forward, layers, heads, keys, channels = known[wanted]
    tied = family.startswith("qwen") and wanted < TIED or family == "llama3" and wanted < TIED
    return Shape(kind, vocabulary, hidden, forward, layers, heads, keys, channels, tied)


def _family(said: str) -> str | None:
    if "qwen3" in said:
        return "qwen3"
    if "qwen2" in said or "qwen-" in said:
        return "qwen2"
    if "mistral" in said:
        return "mistral"
    if "llama" in said:
        return "llama3" if re.search(r"llama-?(instruct)?-?3|distill-llama", said) else "llama"
    return None


def _gpt(billions: float | None, name: str) -> Shape:
    """Of Megatron-LM's table, which names the vocabulary and the parameters alone: the usual proportions, by which little changes."""
    if not billions:
        raise Cannot(f"{name}: no sizes are given")
    vocabulary = 131072
    shapes = []
    for hidden in range(1024, 16385, 512):
        layers = round((billions * 1e9 - 2 * vocabulary * hidden) / (12 * hidden**2))
        if layers > 0:
            shapes.append((abs(hidden / layers - 150), hidden, layers))
    _, hidden, layers = min(shapes)
    heads = hidden // 128
    return Shape("llama", vocabulary, hidden, 8 * hidden // 3 // 64 * 64, layers, heads, heads, 128, False)


def device_of(gpu: str | None, framework: str) -> str:
    """One of megatron_oreal.devices. Where no card is named: 80 GB cards, by published.md an A100 under verl, else an H100."""
    if not gpu:
        return "a100-80g" if "verl" in framework.lower() else "h100-80g"
    said = gpu.upper()
    for word, device in (
        ("GB200", "gb200"),
        ("B200", "b200"),
        ("H200", "h200"),
        ("H20", "h20"),
        ("H800", "h100-80g"),
        ("A800", "a100-80g"),
    ):
        if word in said:
            return device
    if "H100" in said:
        return "h100-pcie" if "PCIE" in said else "h100-80g"
    if "A100" in said:
        return "a100-40g" if "40" in said else "a100-80g"
    raise Cannot(f"{gpu} is not in megatron_oreal/devices.py")
