"""FLOPs and seconds of the parts of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from megatron_oreal.devices import DEVICES
from megatron_oreal.engines.routes import carried, seats_of
from megatron_oreal.learn.packing import Cost, partition
from megatron_oreal.model.shape import head_dim
from megatron_oreal.model.split import Split
from megatron_oreal.plan.build import Role
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.engine import EngineMemory, engines, prices, response_lengths, sampler
from megatron_oreal.plan.host.need import optimizers
from megatron_oreal.plan.memory import GRADIENT_BYTES, NUMBER_BYTES, adam_bytes
from megatron_oreal.plan.operations.continuous import Schedule, Simulated, simulated
from megatron_oreal.plan.operations.sampling import Sampler, slowest
from megatron_oreal.plan.operations.training import FORWARD, RECOMPUTED, TRAINED, Overlap, Pass, Trainer, Work

VERIFY_S = 2 * 0.74 / 1024
"""Of one process for a response (1,024 responses of 30,000 characters in 0.74 s on two); newer figures: verify/README.md."""

Range = tuple[float, float]
ROLLOUT, TRAINING, FORWARD_ALONE = (0.74, 1.38), (0.87, 2.51), (0.87, 2.56)
"""Of published seconds over planned ones: at least nine of ten rollouts, of trainings and of computed log-probabilities lie between these,
by `plan --published` (README.md has the table). A sync has no range: it is as fitted below, or as
plan.disk_gb_s and plan.changed say."""
SWITCH_S = 3.0
"""Of engines that sleep while the models train: to wake, and to sleep again. Fitted, as the next."""
HANDED_BYTES_S = 10e9
"""Of weights that are gathered over the ranks and handed to engines: fitted to NeMo-RL v0.3's refits (8B 4 to 6 s, 70B 15 to 20 s) and
verl's (7B 3 to 9 s)."""
FLATTENED_BYTES_S = 20e9
"""The same in flat buckets, a handle each, as rollout.sync=tensor does it: slime's 3.0 s for the 61 GB of a 30B model on one host of eight
H200, which took 11 to 13.5 s with a handle for each tensor."""
COMPARED_BYTES_S, CHANGED_BYTES_S = 8 * 1.7e9, 8 * 4.3e9
"""Of weights on eight threads of a host: a version compared with the one before, what changed packed; and a copy brought up to it.
Measured on one thread of a CPU, of bfloat16 in which 3 % of the numbers changed."""


HOST_MEMORY_BYTES_S = 300e9
"""Of a host on all its cores: half of what two CPUs with eight channels of DDR5-4800 each have by their makers (614 GB/s), assumed. One
thread of an EPYC moved 12.5 GB/s in the update of weights."""
HOST_TOUCHED_BYTES = 34
"""Of a parameter, by an update on the host: gradient, weight and moments are read, the latter three written, and the weight once more read
and turned into 16 bits."""


@dataclass(frozen=True)
class Part:
    """A part of a step; its FLOPs are those of all GPUs."""

    name: str
    flops: float
    seconds: float
    published: Range = (1.0, 1.0)  # see ROLLOUT; else what is planned is assumed
    overlapped: bool = False  # with the part before it: adds nothing to the step
    update: float = 0.0  # of its seconds: the optimizer's, with the exchange of gradients and weights

    @property
    def likely(self) -> Range:
        """Seconds."""
        return self.seconds * self.published[0], self.seconds * self.published[1]


@dataclass(frozen=True)
class Spread:
    """What packing makes of a step's trajectories."""

    micro_batches: int  # of the busiest rank, empty ones apart
    tokens: int  # of the busiest rank
    flops: float  # of a forward pass of the layers over them
    total_tokens: int  # of all ranks
    total_flops: float
    squares: int  # of the lengths of the busiest rank's sequences
    fullest: int  # tokens of the fullest micro-batch: packing seldom fills the budget, and a small step stays far from it

    @property
    def work(self) -> Work:
        """Of the busiest rank."""
        return Work(self.micro_batches, self.tokens, self.squares)


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
    return spread_over(lengths, dp, config.learn.tokens_per_micro_batch, Cost.of(hf, head_dim(hf)), multiple)


@lru_cache(maxsize=256)
def spread_over(lengths: tuple[int, ...], dp: int, budget: int, cost: Cost, multiple: int = 1) -> Spread:
    """Arguments: as learn.packing.partition."""
    ranks = partition(lengths, dp, budget, cost, multiple)
    work = [sum(cost(lengths[i]) for micro in rank for i in micro) for rank in ranks]
    busiest = ranks[work.index(max(work))]
    tokens = sum(lengths[i] for micro in busiest for i in micro)
    squares = sum(lengths[i] ** 2 for micro in busiest for i in micro)
    fullest = max(sum(lengths[i] for i in micro) for rank in ranks for micro in rank)
    return Spread(max(1, sum(map(bool, busiest))), tokens, max(work), sum(lengths), sum(work), squares, fullest)


def step_parts(config: Planned, hf, memory: EngineMemory, parameters: int) -> list[Part]:
    """In the order of a step. `parameters`: of the whole model."""
    turns = [Part("offload", 0.0, _offload_seconds(config, parameters))] if config.compute.offload == "all" else []
    training, sync = training_parts(config, hf, parameters) + turns, Part("sync", 0.0, _sync_seconds(config, parameters))
    between = step_seconds(training), sync.seconds
    answers = config.data.questions_per_step * config.rollout.samples
    return [
        Part("rollout", 2.0 * parameters * sampled_tokens(config), _rollout_s(config, sampler(config, hf, memory), between), ROLLOUT),
        Part("verify", 0.0, answers * VERIFY_S / config.verify.workers, overlapped=True),
        *training,
        sync,
    ]


def _rollout_s(config: Planned, engine: Sampler, between: tuple[float, float]) -> float:
    """What a step takes longer than training and sync, which engines on hosts of their own sample through."""
    if config.rollout.in_flight <= 1:
        return slowest(engine, response_lengths(config), engines(config))
    turns = config.rollout.placement == "colocated"
    return max(0.0, continuous(config, engine, between).seconds - sum(between) * (not turns))


def continuous(config: Planned, engine: Sampler, between: tuple[float, float]) -> Simulated:
    """A run whose engines do not drain. `between`: seconds of training and sync, left out where engines and ranks take turns."""
    turns = config.rollout.placement == "colocated"
    questions, rollout = config.data.questions_per_step, config.rollout
    waits = (0.0, 0.0) if turns else between
    schedule = Schedule(questions, ceil(questions * rollout.in_flight), rollout.max_age, *waits, turns, rollout.keep_cache)
    return simulated(engine, tuple(response_lengths(config)), engines(config), schedule)


def sampled_tokens(config: Planned) -> int:
    """Of a step's responses, with the prompt of each."""
    lengths = response_lengths(config)
    return sum(lengths) + len(lengths) * config.plan.lengths.prompt


def training_parts(config: Planned, hf, parameters: int) -> list[Part]:
    """Token RM, reference and policy, as far as the objective has them."""
    spread, model = spread_of(config, hf), trainer(config, hf)
    passes = _passes(config, hf, spread)
    computed = passes[0] + 2 * passes[1]  # in forward passes
    head = 2.0 * hf.hidden_size * hf.vocab_size
    parts = []
    if config.objective.token_rm:
        update = _update_s(config, "token_rm", model, parameters, spread.work)
        seconds = model.seconds(spread.work, passes, 0) + update
        parts.append(Part("token RM", computed * spread.total_flops, seconds, TRAINING, update=update))
    if config.objective.beta:
        flops = spread.total_flops + head * spread.total_tokens
        parts.append(Part("reference", flops, model.seconds(spread.work, FORWARD, 1), FORWARD_ALONE))
    flops = computed * spread.total_flops + 4 * head * spread.total_tokens  # model.logprobs computes the logits twice
    update = _update_s(config, "policy", model, parameters, spread.work, read_at_once=True)  # by the sync that follows
    return [*parts, Part("policy", flops, model.seconds(spread.work, passes, 4) + update, TRAINING, update=update)]


def _update_s(config: Planned, role: Role, model: Trainer, parameters: int, work: Work, read_at_once: bool = False) -> float:
    """On the GPU, or on its host, where gradients come and from where weights go back (learn.host_memory)."""
    optimizer = optimizers(config)[role]
    if not optimizer.on_host:
        return model.update(parameters, adam_bytes(config.model.dtype, optimizer.moments), GRADIENT_BYTES, work, read_at_once)
    plan, number = config.plan, NUMBER_BYTES[config.model.dtype]
    mine, here = parameters / plan.gpus, min(plan.gpus, plan.gpus_per_host)
    host_s = mine * (GRADIENT_BYTES + number) / DEVICES[plan.gpu].host_bytes_s + mine * here * HOST_TOUCHED_BYTES / HOST_MEMORY_BYTES_S
    return model.update(parameters, 0, GRADIENT_BYTES, work, read_at_once) + host_s


def _passes(config: Planned, hf, spread: Spread) -> Pass:
    """Of a trained model over its layers."""
    if config.compute.recompute == "mlp":
        return 1 + Cost.of(hf, head_dim(hf)).feed_forward * spread.total_tokens / spread.total_flops, 1
    return RECOMPUTED if config.compute.recompute == "full" else TRAINED


def trainer(config: Planned, hf) -> Trainer:
    """The run's models on its ranks."""
    plan, learn = config.plan, config.learn
    place = config.parallel, plan.gpus, plan.gpus_per_host, plan.efficiency.network
    overlap = Overlap(gradients=learn.overlap_grad_reduce, weights=learn.overlap_param_gather)
    return Trainer(hf, prices(config), DEVICES[plan.gpu], *place, overlap=overlap)


def _offload_seconds(config: Planned, parameters: int) -> float:
    """What models give up between turns goes to host memory once a step and comes back, one after the other; the reference only comes."""
    plan, parallel = config.plan, config.parallel
    split, ranks = parallel.tp * parallel.pp, plan.gpus
    weights, token_rm = parameters * NUMBER_BYTES[config.model.dtype] / split, config.objective.token_rm
    on_gpus = [adam_bytes(config.model.dtype, one.moments) for one in optimizers(config).values() if not one.on_host]
    moved = 2 * (sum(on_gpus) * parameters / ranks + weights * token_rm) + weights * bool(config.objective.beta)
    return moved / DEVICES[plan.gpu].host_bytes_s


def _sync_seconds(config: Planned, parameters: int) -> float:
    """Moving the weights: handed over, or through the shared file system. Checksums apart."""
    rollout, number = config.rollout, NUMBER_BYTES[config.model.dtype]
    if rollout.sync == "disk":
        return rollout.releases_memory() * SWITCH_S + _over_disk_s(config, parameters * number)
    if rollout.sync == "tensor":
        handed_s = handed_over_s(parameters, number, rollout.releases_memory(), FLATTENED_BYTES_S)
        return _carried_s(config, parameters * number) + handed_s
    return handed_over_s(parameters, number, rollout.releases_memory())


def _over_disk_s(config: Planned, weights: int) -> float:
    """Written once and read by each host with engines: of `weights` bytes what changed, or all where nobody of ours keeps a host's copy.

    The stages' senders compare at the same time, each its own part; then the engines load the copy.
    """
    plan = config.plan
    shared_s = weights * (1 + engine_hosts(config)) / (plan.disk_gb_s * 1e9)
    if config.rollout.placement == "external":
        return shared_s
    here_s = weights / config.parallel.pp / COMPARED_BYTES_S + weights / CHANGED_BYTES_S + weights / HANDED_BYTES_S
    return plan.changed * shared_s + here_s


def engine_hosts(config: Planned) -> int:
    """That have engines, or parts of one."""
    return max(1, min(engines(config), -(-engines(config) * config.rollout.tp // config.plan.gpus_per_host)))


def _carried_s(config: Planned, weights: int) -> float:
    """Of `weights` bytes what other stages hold comes over all network cards of a host; see engines/routes.py."""
    plan, layout = config.plan, config.parallel
    here = min(plan.gpus, plan.gpus_per_host)
    seats = seats_of(plan.gpus, here, layout.tp, layout.pp)
    links = carried(seats, [weights // layout.pp] * layout.pp, {seat.replica for seat in seats})
    return max(link.busier for link in links.values()) / (here * DEVICES[plan.gpu].network_bytes_s * plan.efficiency.network)


def handed_over_s(parameters: int, number: int, switched: bool, bytes_s: float = HANDED_BYTES_S) -> float:
    """New weights gathered from the ranks and taken by engines, which have to be woken (`switched`) where models share their GPUs."""
    return switched * SWITCH_S + parameters * number / bytes_s


def step_seconds(parts: Sequence[Part]) -> float:
    """Of the whole step."""
    return sum(part.seconds for part in parts if not part.overlapped)
