"""What a run holds of a machine without GPUs, part by part, by formula and in milliseconds: nothing is built, and no Megatron imported.

For tools/plan.py, for tools/doctor.py and for the start of every run. Everything lives at the same time there: engines do not give up their
memory while the ranks train.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.engines import demand
from megatron_oreal.engines.cpu_share import cache_tokens, token_bytes
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.model.shape import Shape
from megatron_oreal.plan.build import Built, Role
from megatron_oreal.plan.host.memory import CpuFormula
from megatron_oreal.plan.memory import NUMBER_BYTES, Workload, whole
from megatron_oreal.rollout.config import RolloutConfig

RANK_GIB = 0.75
"""Of a rank beside tensors: Python, torch, Megatron, transformers, gloo's threads."""
ENGINE_GIB = 1.4
"""Of an engine's three processes beside weights and cache: Python, torch, SGLang, the tokenizer."""
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
    models: list[Built]
    logprobs: int  # of the policy's activations: the log-probabilities' workspace
    publication: int  # new weights, gathered on their way to the engines

    @property
    def state(self) -> int:
        """Weights, gradients and optimizers of the models that learn: always there."""
        return sum(m.weights + m.gradients + m.optimizer for m in self.models if m.role != "reference")

    @property
    def working(self) -> int:
        """The most of what comes and goes: models take turns, and weights are published between two steps.

        The reference's weights are in a mapped file (learn.reference), and let go when it has had its turn.
        """
        turns = [m.activations + m.weights * (m.role == "reference") for m in self.models]
        return max([self.publication, *turns])

    @property
    def total(self) -> int:
        return self.process + self.state + self.working


@dataclass(frozen=True)
class EngineNeed:
    """One engine, all its processes; bytes."""

    process: int
    weights: int
    cache: int
    working: int  # while it samples, and takes new weights: what it took once it keeps
    kv_tokens: int

    @property
    def total(self) -> int:
        return self.process + self.weights + self.cache + self.working


@dataclass(frozen=True)
class Need:
    """All of a run on this machine; bytes."""

    ranks: list[RankNeed]
    engines: list[EngineNeed]
    workers: int
    launcher: int

    @property
    def total(self) -> int:
        return sum(part.total for part in (*self.ranks, *self.engines)) + self.workers + self.launcher


def need_of_run(config: TrainConfig, hf: Shape, place: Place, free: int) -> Need:
    """Of a training run.

    Args:
        free: bytes that nobody holds now, by which engines size their caches.
    Raises:
        ValueError: the layout divides neither the ranks nor the model.
    """
    rollout, trains, samples = config.rollout, config.mode != "rollout_only", not config.recorded
    colocated = samples and rollout.placement == "colocated"
    engines = rollout.engines // place.hosts if colocated else 0
    ranks = _ranks(config, hf, place, roles(config) if trains else (), rollout if samples and trains else None)
    engine = _engine(config.model.dtype, rollout, hf, demand.of_training(config), free)
    return Need(ranks, [engine] * engines, _workers(config) if samples else 0, _launcher(place))


def need_of_sft(config: SftConfig, hf: Shape, place: Place) -> Need:
    """Of a supervised start: ranks with a policy alone. Arguments and errors as need_of_run."""
    return Need(_ranks(config, hf, place, ("policy",), None), [], 0, _launcher(place))


def need_of_sampling(config: EvaluateConfig | PassrateConfig, hf: Shape, free: int) -> Need:
    """Of an evaluation, or of the measurement of pass rates: engines, and who verifies. Arguments as need_of_run."""
    asked = demand.of_evaluation(config) if isinstance(config, EvaluateConfig) else demand.of_passrate(config)
    engine = _engine(config.model.dtype, config.rollout, hf, asked, free)
    engines = config.rollout.engines if config.rollout.placement == "colocated" else 0
    return Need([], [engine] * engines, _workers(config), round(LAUNCHER_GIB * GIB))


def roles(config: TrainConfig) -> tuple[Role, ...]:
    """The models that the objective needs."""
    return ("policy", *(["token_rm"] if config.objective.token_rm else []), *(["reference"] if config.objective.beta else []))


def _ranks(
    config: TrainConfig | SftConfig, hf: Shape, place: Place, wanted: Sequence[Role], rollout: RolloutConfig | None
) -> list[RankNeed]:
    """Of the machine with the most; Megatron's first ranks are those of the first stage."""
    parallel: ParallelConfig = config.parallel
    check_fields(asdict(hf), parallel)
    tokens = _micro_batch(config, parallel.data_parallel(place.world))
    in_flight = 2 * parallel.pp  # as many micro-batches as may be under way
    work = Workload(parallel, config.compute.recompute, config.model.dtype, place.world, tokens, in_flight)
    formula = CpuFormula(hf, work)
    stages = [_rank(formula, stage, wanted, rollout) for stage in range(parallel.pp)]
    per_stage = place.world // parallel.pp
    machines = [range(first, min(first + place.here, place.world)) for first in range(0, place.world, place.here)]
    return max(([stages[rank // per_stage] for rank in some] for some in machines), key=lambda ranks: sum(r.total for r in ranks))


def _micro_batch(config: TrainConfig | SftConfig, dp: int) -> int:
    """Most tokens of one: a small step does not fill it."""
    budget = config.learn.tokens_per_micro_batch
    if isinstance(config, SftConfig):
        return budget
    questions = ceil(config.data.questions_per_step * config.rollout.oversample)
    trajectories = questions * (2 if config.objective.keep == "pair" else config.rollout.samples)
    return min(budget, ceil(trajectories / dp) * config.rollout.max_total_tokens)


def _rank(formula: CpuFormula, stage: int, wanted: Sequence[Role], rollout: RolloutConfig | None) -> RankNeed:
    models = [formula.stage(role, stage) for role in wanted]
    logprobs = round(formula.logprobs(stage)) if wanted else 0
    publication = _publication(formula, models[0].weights, rollout) if rollout else 0
    return RankNeed(stage, round(RANK_GIB * GIB), models, logprobs, publication)


def _publication(formula: CpuFormula, weights: int, rollout: RolloutConfig) -> int:
    """Tensors whole, in buckets; without tensor parallelism they are the model's own."""
    tp, largest = formula.work.parallel.tp, _largest(formula.hf, formula.work.dtype)
    return min(weights * tp, BUCKETS * max(rollout.sync_bucket_mb * 2**20, largest)) if tp > 1 else 0


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


def _workers(config: TrainConfig | EvaluateConfig | PassrateConfig) -> int:
    return round(config.verify.workers * WORKER_GIB * GIB)


def _launcher(place: Place) -> int:
    return round((place.world > 1) * LAUNCHER_GIB * GIB)
