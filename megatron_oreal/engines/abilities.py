"""What the engines of this machine cannot do of what is asked, said before one is started: it would end in the middle of its start."""

import importlib.util
from pathlib import Path

from megatron_oreal.rollout.config import RolloutConfig

NGRAM = "srt/speculative/ngram_worker.py"
"""In SGLang's folder, where it has n-gram speculation."""
ON_CPU = {
    "kv_cache_dtype": "SGLang keeps no keys and values in 8 bits without a GPU, but by a kernel library for Intel AMX that has no wheel",
    "speculative": "without a GPU SGLang verifies guesses greedily whatever the temperature, by kernels that no wheel has",
}
"""Why an engine on a CPU has none of it: SGLang 0.5.21, tried (tests/engines/test_abilities.py) and read (speculative/eagle_utils.py)."""


def refuse_what_engines_lack(rollout: RolloutConfig) -> None:
    """Of engines that are started here.

    Raises:
        ValueError: one line; which key, why, and its default that works.
    """
    asked = {name: default for name, default in (("speculative", "none"), ("kv_cache_dtype", "auto")) if getattr(rollout, name) != default}
    if not asked:
        return
    import torch  # here, because it takes a second

    for name, default in asked.items():
        reason = _no_ngram() if name == "speculative" else ""
        reason = reason if torch.cuda.is_available() else ON_CPU[name]
        if reason:
            raise ValueError(f"rollout.{name}={getattr(rollout, name)}: {reason}; set rollout.{name}={default}")


def _no_ngram() -> str:
    """Why the installed SGLang cannot speculate; empty where it can, or where none is installed, which others say."""
    found = importlib.util.find_spec("sglang")
    lacks = found and not any((Path(folder) / NGRAM).is_file() for folder in found.submodule_search_locations or ())
    return "the installed SGLang has no n-gram speculation" if lacks else ""
