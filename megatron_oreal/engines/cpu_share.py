"""CPU shim: what an engine takes of a machine without a GPU, by its model and what it is asked for. Not used where CUDA is."""

from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.model.shape import cache_bytes_per_token, read_shape
from megatron_oreal.rollout.config import RolloutConfig

SMALL_MODEL_BYTES = 200e6
"""Of weights, below which more threads than one only get in each other's way (2 to 8 times slower with half a million parameters), and
memory is not what a machine lacks."""
MOST_CACHE_TOKENS = 65536
MEMORY_SHARE = 0.25
"""Of the memory that is free at the start, for the caches of all engines: the ranks' models need the rest."""
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class CpuShare:
    """For one engine."""

    threads: int  # for each of its TP ranks
    cache_tokens: int  # of prompts and answers in progress; more requests than fit wait for their turn
    keeps_memory: bool  # of one weight update for the next, else its pages are made anew each time: 0.4 s a GB

    @classmethod
    def of(cls, model: Path, dtype: str, rollout: RolloutConfig, asked: int, cores: int, free_bytes: int) -> "CpuShare":
        """`asked`: answers that it is asked for at one time. `cores` and `free_bytes` are the machine's; its engines share them evenly."""
        weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        small = weights < SMALL_MODEL_BYTES
        threads = 1 if small else max(cores // (rollout.tp * rollout.engines), 1)
        return cls(threads, cache_tokens(read_shape(model), dtype, rollout, asked, free_bytes), keeps_memory=small)


def cache_tokens(hf, dtype: str, rollout: RolloutConfig, asked: int, free_bytes: int) -> int:
    """Of an engine: what it is asked for at one time, as far as memory allows, and one whole trajectory in any case.

    An explicit rollout.server_args.max-total-tokens wins. `hf`: the model's config, or its Shape.
    """
    fitting = int(free_bytes * MEMORY_SHARE / rollout.engines / token_bytes(hf, dtype, rollout.tp))
    wanted = min(asked * rollout.max_total_tokens, fitting, MOST_CACHE_TOKENS)
    return int(rollout.server_args.get("max-total-tokens", max(wanted, rollout.max_total_tokens + 1)))


def token_bytes(hf, dtype: str, tp: int) -> int:
    """Of keys and values of one token, on all of an engine's TP ranks together."""
    return tp * cache_bytes_per_token(hf, tp, BYTES[dtype])
