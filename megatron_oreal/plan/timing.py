"""FLOPs and seconds of the parts of a step, from the device's stated figures and the shares of them that are reached (plan.efficiency)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from megatron_oreal.devices import DEVICES
from megatron_oreal.learn.packing import Cost, partition
from megatron_oreal.model import gpt
from megatron_oreal.model.split import Split
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.engine import EngineMemory, engines, response_lengths, sampling_seconds
from megatron_oreal.plan.memory import ADAM_BYTES, GRADIENT_BYTES, NUMBER_BYTES

VERIFY_S = 2 * 0.74 / 1024
"""Of one process for a response (1,024 responses of 30,000 characters in 0.74 s on two); newer figures: verify/README.md."""


@dataclass(frozen=True)
class Part:
    """A part of a step; its FLOPs are those of all GPUs."""

    name: str
    flops: float
    seconds: float
    overlapped: bool = False  # with the part before it: adds nothing to the step


@dataclass(frozen=True)
class Spread:
    """What packing makes of a step's trajectories."""

    micro_batches: int  # of the busiest rank, empty ones apart
    tokens: int  # of the busiest rank
    flops: float  # of a forward pass of the layers over them
    total_tokens: int  # of all ranks
    total_flops: float


def trained_lengths(config: Planned) -> list[int]:
    """Tokens of the trajectories of a step that are trained on, with their prompts."""
    drawn = response_lengths(config)
    if config.objective.keep == "pair":
        drawn = drawn[: max(2, 2 * round(config.plan.mixed * config.data.questions_per_step))]
    return [length + config.plan.lengths.prompt for length in drawn]


def spread_of(config: Planned, hf) -> Spread:
    """By learn.packing, which the run uses itself."""
    parallel, split = config.parallel, Split(config.parallel.cp)
    lengths = tuple(split.padded(length) for length in trained_lengths(config))
    dp, multiple = parallel.data_parallel(config.plan.gpus), parallel.pp if parallel.vpp else 1
    return _spread(lengths, dp, config.learn.tokens_per_micro_batch, Cost.of(hf, gpt.head_dim(hf)), multiple)


@lru_cache(maxsize=256)
def _spread(lengths: tuple[int, ...], dp: int, budget: int, cost: Cost, multiple: int) -> Spread:
    ranks = partition(lengths, dp, budget, cost, multiple)
    work = [sum(cost(lengths[i]) for micro in rank for i in micro) for rank in ranks]
    busiest = ranks[work.index(max(work))]
    tokens = sum(lengths[i] for micro in busiest for i in micro)
    return Spread(max(1, sum(map(bool, busiest))), tokens, max(work), sum(lengths), sum(work))


def step_parts(config: Planned, hf, memory: EngineMemory, parameters: int) -> list[Part]:
    """In the order of a step. `parameters`: of the whole model."""
    lengths = response_lengths(config)
    sampled = sum(lengths) + len(lengths) * config.plan.lengths.prompt
    parts = [
        Part("rollout", 2.0 * parameters * sampled, sampling_seconds(config, memory, lengths)),
        Part("verify", 0.0, len(lengths) * VERIFY_S / config.verify.workers, overlapped=True),
    ]
    return parts + training_parts(config, hf, parameters) + [Part("sync", 0.0, _sync_seconds(config, parameters))]


def training_parts(config: Planned, hf, parameters: int) -> list[Part]:
    """Token RM, reference and policy, as far as the objective has them."""
    spread, model = spread_of(config, hf), _Trained(config, hf)
    again = config.compute.recompute == "full"  # the layers' forward pass a second time
    head = 2.0 * hf.hidden_size * hf.vocab_size
    parts = []
    if config.objective.token_rm:
        parts.append(Part("token RM", (3 + again) * spread.total_flops, model.seconds(spread, 3 + again, 0.0) + model.update(parameters)))
    if config.objective.beta:
        flops = spread.total_flops + head * spread.total_tokens
        parts.append(Part("reference", flops, model.seconds(spread, 1, head)))
    flops = (3 + again) * spread.total_flops + 4 * head * spread.total_tokens  # model.logprobs computes the logits twice
    return [*parts, Part("policy", flops, model.seconds(spread, 3 + again, 4 * head) + model.update(parameters))]


@dataclass(frozen=True)
class _Trained:
    """How long a layout computes and talks."""

    config: Planned
    hf: object

    def seconds(self, spread: Spread, passes: int, head: float) -> float:
        """Of forward and backward passes: the last stage's computation and its messages within the stage, and the pipeline's bubble.

        Args:
            passes: over the layers, in forward passes; a backward pass counts as two.
            head: FLOPs of the LM head a token.
        """
        parallel, device, reached = self.config.parallel, DEVICES[self.config.plan.gpu], self.config.plan.efficiency
        ranks = parallel.tp * parallel.cp
        computing = (spread.flops * passes / parallel.pp + head * spread.tokens) / ranks / (device.bf16_flops * reached.matmul)
        n = spread.micro_batches
        bubble = (n + (parallel.pp - 1) / (parallel.vpp or 1)) / n
        tokens = spread.tokens / parallel.cp
        return (computing + self._tensor_parallel(tokens, passes) + self._context_parallel(tokens, passes)) * bubble

    def _tensor_parallel(self, tokens: float, passes: int) -> float:
        """An all-reduce, or all-gather and reduce-scatter, of the residual stream around attention and around the feed-forward part.

        So twice a pass and layer; in the backward pass (which counts as two) the gradients' as well.
        """
        tp, hf = self.config.parallel.tp, self.hf
        messages = 4 * hf.num_hidden_layers / self.config.parallel.pp * passes
        return messages * tokens * hf.hidden_size * self._number * (tp - 1) / tp / self._bandwidth(tp)

    def _context_parallel(self, tokens: float, passes: int) -> float:
        """Keys and values of all other context-parallel ranks, in each pass over a layer."""
        parallel, hf = self.config.parallel, self.hf
        keys_and_values = 2 * hf.num_key_value_heads * gpt.head_dim(hf) / parallel.tp * self._number
        received = tokens * (parallel.cp - 1) * keys_and_values * hf.num_hidden_layers / parallel.pp * passes
        return received / self._bandwidth(parallel.tp * parallel.cp)

    def update(self, parameters: int) -> float:
        """Reducing the gradients, the optimizer's step, and gathering the weights."""
        config, parallel = self.config, self.config.parallel
        shards = config.plan.gpus // (parallel.tp * parallel.pp)
        mine = parameters / (parallel.tp * parallel.pp)
        moved = mine * (GRADIENT_BYTES + self._number) * (shards - 1) / shards
        # Gradients are read for their norm and for the step; masters and moments are read and written.
        touched = mine / shards * (2 * GRADIENT_BYTES + 2 * ADAM_BYTES[config.model.dtype] + self._number)
        memory = DEVICES[config.plan.gpu].memory_bytes_s * config.plan.efficiency.memory
        return moved / self._bandwidth(parallel.tp * shards) + touched / memory

    @property
    def _number(self) -> int:
        return NUMBER_BYTES[self.config.model.dtype]

    def _bandwidth(self, neighbours: int) -> float:
        """Between ranks of a group that spans so many consecutive ranks: NVLink within a host, else the network. Bytes a second."""
        plan, device = self.config.plan, DEVICES[self.config.plan.gpu]
        return (device.nvlink_bytes_s if neighbours <= plan.gpus_per_host else device.network_bytes_s) * plan.efficiency.network


def _sync_seconds(config: Planned, parameters: int) -> float:
    """Moving the weights: each engine's GPU takes them whole, or each host reads them from the shared file system. Checksums apart."""
    rollout, plan, device = config.rollout, config.plan, DEVICES[config.plan.gpu]
    nbytes = parameters * NUMBER_BYTES[config.model.dtype]
    if rollout.sync == "disk":
        readers = min(engines(config), -(-engines(config) * rollout.tp // plan.gpus_per_host))
        return nbytes * (1 + max(1, readers)) / (plan.disk_gb_s * 1e9)
    link = device.nvlink_bytes_s if rollout.sync == "tensor" else device.network_bytes_s
    return nbytes / (link * plan.efficiency.network)


def step_seconds(parts: Sequence[Part]) -> float:
    """Of the whole step."""
    return sum(part.seconds for part in parts if not part.overlapped)
