"""What a run holds of a machine without GPUs, part by part, by formula and in milliseconds: nothing is built, and no Megatron imported.

For the planner, the doctor and for the start of every run. Models and engines live there at the same time: what takes turns is
what they work in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.engines import demand
from megatron_oreal.engines.cpu_share import cache_tokens, token_bytes
from megatron_oreal.learn.config import OptimizerConfig, ParallelConfig
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.model.shape import Shape
from megatron_oreal.plan.build import Built, Role
from megatron_oreal.plan.host.memory import CpuFormula
from megatron_oreal.plan.memory import NUMBER_BYTES, Workload, whole
from megatron_oreal.rollout.config import RolloutConfig

RANK_GIB = 0.5
"""Of a rank beside tensors: Python, torch, Megatron, transformers, gloo's threads."""
ENGINE_GIB = 1.5
"""Of an engine's three processes beside weights and cache: Python, torch, SGLang, and in each of them a tokenizer of 152k words."""
ENGINE_RANK_GIB = 0.6
"""Of each TP rank of an engine after the first."""
LOGITS_COPIES = 10
"""Float32 logits of all that an engine samples at one time, of which so many exist while it samples: sorted, summed up, filtered."""
WORKER_GIB = 0.06
"""Of a process of the rule check."""
LAUNCHER_GIB = 0.2
"""Of the process that starts ranks and waits for them."""
BUCKETS = 3
"""Of new weights: one on its way to the engines, one that waits, one that is being gathered."""


@dataclass(frozen=True)
class Place:
    """The ranks of a job, and those of them that this machine has."""

    world: int
    here: int

    @property
    def hosts(self) -> int:
        return -(-self.world // self.here)


@dataclass(frozen=True)
class RankNeed:
    """One rank of a pipeline stage; bytes."""

    stage: int
    process: int
    models: Sequence[Built] = ()
    logprobs: int = 0  # of the policy's activations: the log-probabilities' workspace
    sent: int = 0  # of a stage's first rank alone: new weights on their way to the engines
    exported: int = 0  # of it, too: the weights that are copied for an export, between two steps
    written: int = 0  # what of that copy is still there while the next step trains
    offload: str = "none"  # compute.offload

    @property
    def loaded(self) -> int:
        """Weights, gradients and optimizers of the models that learn, as they are made at start."""
        return sum(m.whole + m.on_host for m in self.models if m.role != "reference")

    @property
    def state(self) -> int:
        """What of them is there between turns. The rest is in files (learn.host_memory), which the kernel keeps as long as it has room."""
        return self.loaded - sum(m.given_up(self.offload) for m in self.models if m.role != "reference")

    @property
    def working(self) -> int:
        """The most that a turn of a model takes: they follow each other.

        The reference's weights are in a mapped file (learn.reference), and let go when it has had its turn.
        """
        return max((m.activations + self._back(m) for m in self.models), default=0)

    def _back(self, model: Built) -> int:
        return model.weights if model.role == "reference" else model.given_up(self.offload)

    @property
    def resting(self) -> int:
        """While engines sample."""
        return self.process + self.state

    @property
    def training(self) -> int:
        """Or starting, where all models are made."""
        return max(self.resting + self.working, self.process + self.loaded)


@dataclass(frozen=True)
class EngineNeed:
    """One engine, all its processes; bytes."""

    process: int
    weights: int
    cache: int
    working: int  # logits while it samples; weights while it takes new ones
    kv_tokens: int

    @property
    def resting(self) -> int:
        """While ranks train."""
        return self.process + self.weights + self.cache

    @property
    def sampling(self) -> int:
        return self.resting + self.working


@dataclass(frozen=True)
class Need:
    """All of a run on this machine; bytes."""

    ranks: list[RankNeed]
    engines: list[EngineNeed]
    workers: int
    launcher: int

    @property
    def ranks_training(self) -> int:
        """Or while an export is copied."""
        trains = sum(r.training for r in self.ranks) + sum(r.written for r in self._first_ranks)
        return max(trains, sum(r.resting for r in self.ranks) + sum(r.exported for r in self._first_ranks))

    @property
    def ranks_resting(self) -> int:
        """While engines sample, or weights are sent."""
        return sum(r.resting for r in self.ranks) + sum(r.sent for r in self._first_ranks)

    @property
    def engines_resting(self) -> int:
        return sum(e.resting for e in self.engines)

    @property
    def engines_sampling(self) -> int:
        return sum(e.sampling for e in self.engines)

    @property
    def training(self) -> int:
        """Everything while ranks train."""
        return self.ranks_training + self.engines_resting + self.workers + self.launcher

    @property
    def sampling(self) -> int:
        """Everything while engines sample, or take new weights."""
        return self.ranks_resting + self.engines_sampling + self.workers + self.launcher

    @property
    def total(self) -> int:
        """At the fullest moment."""
        return max(self.training, self.sampling)

    @property
    def _first_ranks(self) -> list[RankNeed]:
        """One of each stage."""
        return list({r.stage: r for r in self.ranks}.values())


def need_of_run(config: TrainConfig, hf: Shape, place: Place, free: int) -> Need:
    """Of a training run.

    Args:
        free: bytes that nobody holds now, by which engines size their caches.
    Raises:
        ValueError: the layout divides neither the ranks nor the model.
    """
    rollout, trains, samples = config.rollout, config.mode != "rollout_only", config.has_engines
    colocated = samples and rollout.placement == "colocated"
    engines = rollout.engines // place.hosts if colocated else 0
    ranks = _ranks(config, hf, place, roles(config) if trains else ())
    engine = _engine(config.model.dtype, rollout, hf, demand.of_training(config), free)
    return Need(ranks, [engine] * engines, _workers(config) if samples else 0, _launcher(place))


def need_of_sft(config: SftConfig, hf: Shape, place: Place, free: int) -> Need:
    """Of a supervised start: ranks with a policy alone, and engines where it is evaluated. Arguments and errors as need_of_run."""
    ranks = _ranks(config, hf, place, roles(config))
    if not config.has_engines:
        return Need(ranks, [], 0, _launcher(place))
    engines = config.rollout.engines // place.hosts if config.rollout.placement == "colocated" else 0
    engine = _engine(config.model.dtype, config.rollout, hf, demand.of_supervised(config), free)
    return Need(ranks, [engine] * engines, _workers(config), _launcher(place))


def need_of_sampling(config: EvaluateConfig | PassrateConfig, hf: Shape, free: int) -> Need:
    """Of an evaluation, or of the measurement of pass rates: engines, and who verifies. Arguments as need_of_run."""
    asked = demand.of_evaluation(config) if isinstance(config, EvaluateConfig) else demand.of_passrate(config)
    engine = _engine(config.model.dtype, config.rollout, hf, asked, free)
    engines = config.rollout.engines if config.rollout.placement == "colocated" else 0
    return Need([], [engine] * engines, _workers(config), round(LAUNCHER_GIB * GIB))


def roles(config: TrainConfig | SftConfig) -> tuple[Role, ...]:
    """The models that the objective needs."""
    if isinstance(config, SftConfig):
        return ("policy",)
    return ("policy", *(["token_rm"] if config.objective.token_rm else []), *(["reference"] if config.objective.beta else []))


def optimizers(config: TrainConfig | SftConfig) -> dict[Role, OptimizerConfig]:
    """Of the models that learn."""
    if isinstance(config, SftConfig):
        return {"policy": config.optimizer}
    return {"policy": config.policy.optimizer} | ({"token_rm": config.token_rm.optimizer} if config.objective.token_rm else {})


def _ranks(config: TrainConfig | SftConfig, hf: Shape, place: Place, wanted: Sequence[Role]) -> list[RankNeed]:
    """Of the machine with the most; Megatron's first ranks are those of the first stage."""
    parallel: ParallelConfig = config.parallel
    check_fields(asdict(hf), parallel)
    tokens = micro_batch_tokens(config, parallel.data_parallel(place.world))
    in_flight = 2 * parallel.pp  # as many micro-batches as may be under way
    work = Workload(parallel, config.compute.recompute, config.model.dtype, place.world, tokens, in_flight, "chunked")
    formula = CpuFormula(hf, work)
    stages = [_rank(formula, stage, wanted, config) for stage in range(parallel.pp)]
    per_stage = place.world // parallel.pp
    machines = [range(first, min(first + place.here, place.world)) for first in range(0, place.world, place.here)]
    return max(([stages[rank // per_stage] for rank in some] for some in machines), key=lambda ranks: sum(r.training for r in ranks))


def micro_batch_tokens(config: TrainConfig | SftConfig, dp: int) -> int:
    """Most tokens of one: a small step does not fill it."""
    budget = config.learn.tokens_per_micro_batch
    if isinstance(config, SftConfig):
        return budget
    trajectories = config.data.questions_per_step * (2 if config.objective.keep == "pair" else config.rollout.samples)
    return min(budget, ceil(trajectories / dp) * config.rollout.max_total_tokens)


def _rank(formula: CpuFormula, stage: int, wanted: Sequence[Role], config: TrainConfig | SftConfig) -> RankNeed:
    if not wanted:
        return RankNeed(stage, round(RANK_GIB * GIB))
    models = [formula.stage(role, stage) for role in wanted]
    weights = models[0].weights * formula.work.parallel.tp  # of the whole stage
    sent, written = _buckets(formula, weights, config.rollout) if config.has_engines else 0, weights * (config.checkpoint.hf_interval > 0)
    sizes = round(formula.logprobs(stage)), sent, weights, written
    return RankNeed(stage, round(RANK_GIB * GIB), formula.placed(models, optimizers(config)), *sizes, config.compute.offload)


def _buckets(formula: CpuFormula, weights: int, rollout: RolloutConfig) -> int:
    """New weights, gathered; without tensor parallelism they are the model's own."""
    bucket = max(rollout.sync_bucket_mb * 2**20, _largest(formula.hf, formula.work.dtype))
    return min(weights, BUCKETS * bucket) if formula.work.parallel.tp > 1 else 0


def _largest(hf, dtype: str) -> int:
    """Bytes of the largest tensor of a model."""
    return hf.hidden_size * max(hf.vocab_size, 2 * hf.intermediate_size) * NUMBER_BYTES[dtype]


def _engine(dtype: str, rollout: RolloutConfig, hf: Shape, asked: int, free: int) -> EngineNeed:
    tokens = cache_tokens(hf, dtype, rollout, asked, free)
    weights = whole(hf) * NUMBER_BYTES[dtype]
    bucket = min(weights, max(rollout.sync_bucket_mb * 2**20, _largest(hf, dtype)))
    at_once = min(asked, -(-tokens // rollout.max_total_tokens))
    return EngineNeed(
        process=round((ENGINE_GIB + (rollout.tp - 1) * ENGINE_RANK_GIB) * GIB),
        weights=weights,
        cache=tokens * token_bytes(hf, dtype, rollout.tp),
        working=bucket + LOGITS_COPIES * 4 * at_once * hf.vocab_size,
        kv_tokens=tokens,
    )


def _workers(config: TrainConfig | SftConfig | EvaluateConfig | PassrateConfig) -> int:
    return round(config.verify.workers * WORKER_GIB * GIB)


def _launcher(place: Place) -> int:
    return round((place.world > 1) * LAUNCHER_GIB * GIB)
