"""How long engines sample: each simulated, with what runs, waits and is cached at every moment."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from megatron_oreal.plan.operations.serving import Served

STRIDE = 64
"""Tokens that the simulation of an engine moves on by."""


UNEVEN = 1.3
"""Of engines that sample for training, against their steps added up: requests are not shared out as evenly as here, and neither start nor
end at one time. Fitted to the rollouts of NeMo-RL v0.3, slime and verl's logs (12 figures, 1.16 to 1.6)."""


@dataclass(frozen=True)
class Sampler:
    """An engine as the simulation sees it."""

    served: Served
    room: int  # tokens of the cache
    at_once: int  # sequences
    prompt: int  # tokens
    shared: int  # sequences of a question, which one after the other find its prompt cached


@lru_cache(maxsize=256)
def sampling_seconds(engine: Sampler, lengths: tuple[int, ...]) -> float:
    """Until the last response of an engine is there. `lengths`: of its responses in tokens, in the order in which they are asked for.

    A sequence starts when its whole length, known here alone, has room in the cache. Of those that share a prompt the first computes it.
    """
    waiting, running, promised, begun = list(reversed(lengths)), [], 0, 0
    seconds, now, starts = 0.0, 0, 0  # starts: summed up over what runs
    while waiting or running:
        while waiting and len(running) < engine.at_once and (not running or promised + waiting[-1] + engine.prompt <= engine.room):
            promised += waiting[-1] + engine.prompt
            heapq.heappush(running, (now + waiting.pop(), now))
            seconds += 0.0 if begun % engine.shared else engine.served.prefill_s(engine.prompt)
            begun, starts = begun + 1, starts + now
        context = now - starts / len(running) + engine.prompt
        stride = min(STRIDE, running[0][0] - now)
        seconds += stride * engine.served.decode_s(len(running), context + stride / 2)
        now += stride
        while running and running[0][0] <= now:
            end, start = heapq.heappop(running)
            promised, starts = promised - (end - start + engine.prompt), starts - start
    return seconds


def slowest(engine: Sampler, lengths: Sequence[int], engines: int) -> float:
    """Of engines that share out the responses one by one."""
    return UNEVEN * max(sampling_seconds(engine, tuple(lengths[n::engines])) for n in range(min(engines, len(lengths))))
