"""CPU shim: what an engine takes of a machine without a GPU, by its model and what it is asked for. Not used where CUDA is."""

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.rollout.config import RolloutConfig

SMALL_MODEL_BYTES = 200e6
"""Of weights, below which more threads than one only get in each other's way (2 to 8 times slower with half a million parameters)."""
MOST_CACHE_TOKENS = 65536
MEMORY_SHARE = 0.25
"""Of the memory that is free at the start, for the caches of all engines: the ranks' models need the rest."""
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class CpuShare:
    """For one engine."""

    threads: int  # for each of its TP ranks
    cache_tokens: int  # of prompts and answers in progress; more requests than fit wait for their turn

    @classmethod
    def of(cls, model: Path, dtype: str, rollout: RolloutConfig, cores: int, free_bytes: int) -> "CpuShare":
        """`cores` and `free_bytes` are the machine's; its engines share them evenly.

        The cache holds what is asked at one time, as far as memory allows, and one whole trajectory in any case.
        """
        weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        threads = 1 if weights < SMALL_MODEL_BYTES else max(cores // (rollout.tp * rollout.engines), 1)
        asked = rollout.concurrency * rollout.samples * rollout.max_total_tokens
        fitting = int(free_bytes * MEMORY_SHARE / rollout.engines / cache_bytes_per_token(model, dtype))
        return cls(threads, max(min(asked, fitting, MOST_CACHE_TOKENS), rollout.max_total_tokens + 1))


def cache_bytes_per_token(model: Path, dtype: str) -> int:
    """Keys and values of one token in all layers."""
    hf = json.loads((model / "config.json").read_text())
    heads = hf.get("num_key_value_heads") or hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    return 2 * hf["num_hidden_layers"] * heads * head_dim * BYTES[dtype]
