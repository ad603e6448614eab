"""What an engine holds on each of its GPUs, and how fast it samples."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp
from statistics import NormalDist

from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.model import gpt
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.memory import NUMBER_BYTES

WORKING_GIB = 4.0
"""Of an engine beside weights and KV cache: CUDA context and NCCL (1), CUDA graphs (1 to 2) and activations (1). Stated, not measured."""
RELEASED_GIB = 3.5
"""What of it stays when it gives up its memory: context and, by default, CUDA graphs (sglang pull request 7873). Stated, not measured."""
RESERVED_GIB = 10.0
"""SGLang 0.5.21 leaves at least so much of a large GPU free of weights and cache unless mem-fraction-static says otherwise."""
STRIDE = 64
"""Tokens that the simulation of an engine moves on by."""


@dataclass(frozen=True)
class EngineMemory:
    """Of one GPU, in bytes."""

    weights: float
    kv_cache: float
    working: float
    released: float  # what stays of all three while the models train
    kv_tokens: int  # of all sequences of the engine at one time
    wanted_tokens: int  # if everything it is asked at one time grew to the limit

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.working


def engine_memory(config: Planned, hf, parameters: int) -> EngineMemory:
    """By SGLang's rule: weights and cache fill mem-fraction-static of what is free when it starts, and at most max-total-tokens are cached.

    Args:
        parameters: of the whole model.
    """
    rollout, capacity = config.rollout, DEVICES[config.plan.gpu].memory
    number = NUMBER_BYTES[config.model.dtype]
    weights = parameters * number / rollout.tp
    kv_heads = ceil(hf.num_key_value_heads / rollout.tp)
    per_token = 2 * hf.num_hidden_layers * kv_heads * gpt.head_dim(hf) * number
    fraction = rollout.server_args.get("mem-fraction-static", 1 - RESERVED_GIB * GIB / capacity)
    room = int(max(0.0, fraction * capacity - weights) // per_token)
    tokens = min(room, rollout.server_args.get("max-total-tokens", room))
    released = RELEASED_GIB * GIB if rollout.releases_memory() else weights + tokens * per_token + WORKING_GIB * GIB
    asked_at_once = min(rollout.concurrency, ceil(questions(config) / engines(config))) * rollout.samples
    return EngineMemory(weights, tokens * per_token, WORKING_GIB * GIB, released, tokens, asked_at_once * rollout.max_total_tokens)


def questions(config: Planned) -> int:
    """Begun in a step."""
    return ceil(config.data.questions_per_step * config.rollout.oversample)


def engines(config: Planned) -> int:
    """Of whatever placement."""
    return len(config.rollout.urls) or config.rollout.engines


def response_lengths(config: Planned) -> list[int]:
    """Of a step's trajectories: even quantiles of plan.lengths, in an order that is always the same."""
    wanted, rollout, count = config.plan.lengths, config.rollout, questions(config) * config.rollout.samples
    longest = min(rollout.max_new_tokens, rollout.max_total_tokens - wanted.prompt)
    normal = NormalDist(0.0, wanted.spread or 1e-9)
    drawn = (wanted.median * exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    lengths = [max(1, min(longest, round(length))) for length in drawn]
    random.Random(0).shuffle(lengths)
    return lengths


def sampling_seconds(config: Planned, memory: EngineMemory, lengths: Sequence[int]) -> float:
    """Until the slowest engine has sampled its share. What does not fit into its cache waits."""
    device, plan, count = DEVICES[config.plan.gpu], config.plan, engines(config)
    flops = device.bf16_flops * plan.efficiency.matmul
    sampler = _Sampler(
        bandwidth=device.memory_bytes_s * plan.efficiency.memory,
        compute_s=2 * memory.weights / NUMBER_BYTES[config.model.dtype] / flops,
        overhead_s=plan.decode_overhead_ms / 1e3,
        weights=memory.weights,
        per_token=memory.kv_cache / max(memory.kv_tokens, 1),
        room=memory.kv_tokens,
        at_once=config.rollout.concurrency * config.rollout.samples,
        prompt=plan.lengths.prompt,
    )
    return max(_seconds(sampler, tuple(lengths[n::count])) for n in range(min(count, len(lengths))))


@dataclass(frozen=True)
class _Sampler:
    """An engine as the simulation sees it; bytes and seconds are those of one of its GPUs."""

    bandwidth: float
    compute_s: float  # of a token
    overhead_s: float  # of a token of all running sequences
    weights: float
    per_token: float  # of the cache
    room: int  # tokens of the cache
    at_once: int  # sequences
    prompt: int  # tokens


@lru_cache(maxsize=256)
def _seconds(engine: _Sampler, lengths: tuple[int, ...]) -> float:
    """A token of each running sequence costs reading the weights, and the cache of all of them, once; and an overhead.

    A sequence starts when its whole length, known here alone, has room in the cache.
    """
    waiting, running, promised = list(reversed(lengths)), [], 0
    seconds, now = len(lengths) * engine.prompt * engine.compute_s, 0
    while waiting or running:
        while waiting and len(running) < engine.at_once and (not running or promised + waiting[-1] + engine.prompt <= engine.room):
            promised += waiting[-1] + engine.prompt
            heapq.heappush(running, (now + waiting.pop(), now))
        cached = sum(now - begun + engine.prompt for _, begun in running)
        read_s = (engine.weights + cached * engine.per_token) / engine.bandwidth
        stride = min(STRIDE, running[0][0] - now)
        seconds += stride * (max(read_s, len(running) * engine.compute_s) + engine.overhead_s)
        now += stride
        while running and running[0][0] <= now:
            end, begun = heapq.heappop(running)
            promised -= end - begun + engine.prompt
    return seconds
