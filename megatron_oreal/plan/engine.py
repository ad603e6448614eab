"""What an engine holds on each of its GPUs, and the engine as the simulation of sampling sees it."""

import random
from dataclasses import dataclass
from math import ceil, exp
from statistics import NormalDist

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.engines import demand
from megatron_oreal.model.shape import head_dim
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.memory import NUMBER_BYTES
from megatron_oreal.plan.operations.prices import Prices, Stated
from megatron_oreal.plan.operations.sampling import Sampler
from megatron_oreal.plan.operations.serving import HOSTS, Host, Served
from megatron_oreal.plan.operations.silicon import measured
from megatron_oreal.rollout.config import RolloutConfig

WORKING_GIB = 4.0
"""Of an engine beside weights and KV cache: CUDA context and NCCL (1), CUDA graphs (1 to 2) and activations (1). Stated, not measured."""
RELEASED_GIB = 3.5
"""What of it stays when it gives up its memory: context and, by default, CUDA graphs (sglang pull request 7873). Stated, not measured."""
RESERVED_GIB = 10.0
"""SGLang 0.5.21 leaves at least so much of a large GPU free of weights and cache unless mem-fraction-static says otherwise."""
CACHE = "max-total-tokens"
"""SGLang's own limit of what an engine's cache holds."""
SPARE = 0.03
"""Of a GPU's memory: left free where an engine's cache is sized here, for what is stated above and not measured."""
SPECULATING = 48
"""Sequences that SGLang 0.5.21 runs at one time where it speculates, unless max-running-requests says otherwise."""
GRAPH_LIMITS = {1: 256, 2: 256}
"""Most sequences of a CUDA graph that SGLang 0.5.21 captures by default, by rollout.tp; else WIDE_GRAPH_LIMIT."""
WIDE_GRAPH_LIMIT = 512


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


def engine_memory(config: TrainConfig | SftConfig, hf, parameters: int, capacity: float, beside: tuple[float, float]) -> EngineMemory:
    """By SGLang's rule: weights and cache fill mem-fraction-static of what is free when it starts, and at most max-total-tokens are cached.

    Where neither is configured the cache gets what the models that share its GPU leave, and no more than is asked for at one time.

    Args:
        parameters: of the whole model.
        capacity: bytes of a GPU.
        beside: bytes of it that others hold while the engine is awake, and while the models train.
    """
    rollout = config.rollout
    weights = parameters * _bytes(config, weights_number(config)) / rollout.tp
    kv_heads = ceil(hf.num_key_value_heads / rollout.tp)
    per_token = 2 * hf.num_hidden_layers * kv_heads * head_dim(hf) * _bytes(config, cache_number(config))
    fraction = rollout.server_args.get("mem-fraction-static") or 1 - RESERVED_GIB * GIB / capacity
    room = int(max(0.0, fraction * capacity - weights) // per_token)
    wanted = asked_at_once(config) * rollout.max_total_tokens
    whole = weights + WORKING_GIB * GIB
    stays = RELEASED_GIB * GIB if rollout.releases_memory() else whole
    if any(beside) and not sized(rollout):
        left = capacity * (1 - SPARE) - max(beside[0] + whole, (beside[1] + stays) * rollout.cache_stays)
        room = min(room, wanted, max(0, int(left // per_token)))
    tokens = min(room, rollout.server_args.get(CACHE) or room)
    released = stays + tokens * per_token * rollout.cache_stays
    return EngineMemory(weights, tokens * per_token, WORKING_GIB * GIB, released, tokens, wanted)


def sized(rollout: RolloutConfig) -> bool:
    """Whether the user says how large an engine's cache is."""
    return any(rollout.server_args.get(name) is not None for name in ("mem-fraction-static", CACHE))


def asked_at_once(config: TrainConfig | SftConfig) -> int:
    """Answers that an engine samples at one time, for a step where there are steps of it."""
    if isinstance(config, SftConfig):
        return demand.of_supervised(config)
    under_way = ceil(config.data.questions_per_step * config.rollout.in_flight)
    return min(config.rollout.concurrency, ceil(under_way / engines(config))) * config.rollout.samples


def engines(config: TrainConfig | SftConfig) -> int:
    """Of whatever placement."""
    return len(config.rollout.urls) or config.rollout.engines


def response_lengths(config: Planned) -> list[int]:
    """Of a step's trajectories: even quantiles of plan.lengths, in an order that is always the same."""
    wanted, rollout, count = config.plan.lengths, config.rollout, config.data.questions_per_step * config.rollout.samples
    longest = min(rollout.max_new_tokens, rollout.max_total_tokens - wanted.prompt)
    normal = NormalDist(0.0, wanted.spread or 1e-9)
    drawn = (wanted.median * exp(normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    lengths = [max(1, min(longest, round(length))) for length in drawn]
    random.Random(0).shuffle(lengths)
    return lengths


def weights_number(config: TrainConfig | SftConfig) -> str:
    """What engines compute their projections in (rollout.server_args.quantization): bfloat16 or fp8."""
    return "fp8" if str(config.rollout.server_args.get("quantization", "")).endswith("fp8") else "bfloat16"


def cache_number(config: TrainConfig | SftConfig) -> str:
    """What keys and values are kept in (rollout.kv_cache_dtype): bfloat16 or fp8."""
    return "bfloat16" if config.rollout.kv_cache_dtype == "auto" else "fp8"


def _bytes(config: TrainConfig | SftConfig, number: str) -> int:
    return 1 if number == "fp8" else NUMBER_BYTES[config.model.dtype]


def prices(config: Planned) -> Prices:
    """Measured ones where plan.tables has the device, else those of its maker's figures."""
    plan = config.plan
    return (measured(plan.gpu, plan.tables) if plan.tables else None) or stated(config)


def stated(config: Planned) -> Stated:
    """By the maker's figures and plan.efficiency."""
    plan, reached = config.plan, config.plan.efficiency
    return Stated.of(plan.gpu, reached.network, reached.matmul, reached.memory)


def sampler(config: Planned, hf, memory: EngineMemory) -> Sampler:
    """One of the run's engines."""
    rollout, plan = config.rollout, config.plan
    host = Host(plan.decode_overhead_ms / 1e3, HOSTS["sglang"].sequence_s)
    served = Served(hf, prices(config), rollout.tp, host, weights_number(config), cache_number(config), graph_limit(config))
    return Sampler(
        served,
        memory.kv_tokens,
        min(rollout.concurrency * rollout.samples, most_running(rollout, memory.kv_tokens)),
        plan.lengths.prompt,
        rollout.samples,
    )


def most_running(rollout: RolloutConfig, kv_tokens: int) -> int:
    """Sequences that an engine runs at one time, however many are asked for."""
    by_default = kv_tokens if rollout.speculative == "none" else SPECULATING
    return int(rollout.server_args.get("max-running-requests", by_default))


def graph_limit(config: Planned) -> int:
    """Most sequences that are decoded by a CUDA graph."""
    arguments = config.rollout.server_args
    if arguments.get("disable-cuda-graph"):
        return 0
    return int(arguments.get("cuda-graph-max-bs", GRAPH_LIMITS.get(config.rollout.tp, WIDE_GRAPH_LIMIT)))
