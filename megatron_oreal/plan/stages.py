"""What a GPU of each pipeline stage holds: while the models train, while engines are awake, and while checkpoints are written and read."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.plan.build import Built
from megatron_oreal.plan.engine import EngineMemory, engine_memory
from megatron_oreal.plan.host.need import Place, micro_batch_tokens, optimizers, roles
from megatron_oreal.plan.memory import Formula, Workload, whole

PROCESS_GIB = 3.0
"""Of a training process beside tensors: CUDA context (0.5), cuBLAS, cuDNN and Transformer Engine (0.5), NCCL's buffers of some ten
groups (2). Stated, not measured here."""
FRAGMENTATION = 0.1
"""Of the activations' peak: what torch's allocator loses between blocks of unequal micro-batches. Stated, not measured here."""
BUCKETS = 3
"""Of new weights on the sender: one on its way to the engines, one that waits, one that is being gathered (sync.carry)."""
HANDED_OVER = 2
"""Buckets in one piece on each rank, where ranks hand over: one at the engine, one that is being filled (sync.hand_over)."""
FP8_BYTES = 2
"""Transformer Engine keeps a weight in 8 bits and transposed, beside the 16 that are trained."""


@dataclass(frozen=True)
class Card:
    """A GPU as far as memory goes."""

    name: str
    memory: float  # bytes


@dataclass(frozen=True)
class Stage:
    """The GPU of a pipeline stage; bytes."""

    stage: int
    models: list[Built]
    logprobs: float  # of the policy's activations: the log-probabilities' workspace
    fp8: float
    allowance: float  # while the models train: PROCESS_GIB and FRAGMENTATION
    sync: float  # while engines are awake: PROCESS_GIB, what training leaves, and what new weights are gathered in
    loading: float  # while a checkpoint is read: PROCESS_GIB, and what is put together before it is copied
    engine: float = 0.0  # while engines sample; 0 where they have GPUs of their own
    released: float = 0.0  # what they keep while the models train
    offload: str = "none"  # compute.offload

    @property
    def loaded(self) -> float:
        """Weights, gradients and optimizers of all models, as they are made at start; and always there, where nothing is offloaded."""
        return self.fp8 + sum(m.whole for m in self.models)

    @property
    def resting(self) -> float:
        """What of them is there while none works."""
        return self.loaded - sum(m.given_up(self.offload) for m in self.models)

    @property
    def state(self) -> float:
        """What of them is there while the one works that needs most."""
        return self.resting + self._largest.given_up(self.offload)

    @property
    def activations(self) -> int:
        """Models take turns."""
        return self._largest.activations

    @property
    def _largest(self) -> Built:
        return max(self.models, key=lambda m: m.given_up(self.offload) + m.activations)

    @property
    def training(self) -> float:
        """Or reading a checkpoint, before it."""
        return max(self.state + self.activations + self.allowance, self.loaded + self.loading) + self.released

    @property
    def sampling(self) -> float:
        """While engines are awake: they sample, take new weights, or a checkpoint is written, which takes nothing more of a GPU."""
        return self.resting + self.sync + self.engine


@dataclass(frozen=True)
class Obstacle:
    """Why a run will not fit, or not start."""

    reason: str
    remedy: str | None = None  # an override that takes it away; None where another layout or cache may


def stages_of(
    config: TrainConfig | SftConfig, formula: Formula, models: Sequence[Built], capacity: float
) -> tuple[list[Stage], EngineMemory]:
    """All stages with the engine that shares their GPUs, if one does; and an engine.

    Args:
        models: of every stage.
        capacity: bytes of a GPU.
    """
    numbers = range(config.parallel.pp)
    alone = [_stage(config, formula, [m for m in models if m.stage == n]) for n in numbers]
    shares = config.rollout.placement == "colocated" and config.has_engines
    beside = (max(s.sampling for s in alone), max(s.training for s in alone)) if shares else (0.0, 0.0)
    engine = engine_memory(config, formula.hf, whole(formula.hf), capacity, beside)
    return [replace(s, engine=engine.total * shares, released=engine.released * shares) for s in alone], engine


def planned_stages(config: TrainConfig | SftConfig, hf, place: Place, capacity: float) -> tuple[list[Stage], EngineMemory]:
    """Of a run whose lengths nobody has said: as many micro-batches are under way as may be. Arguments and results: as of stages_of.

    Raises:
        ValueError: the layout divides neither the ranks nor the model.
    """
    return stages_of(config, *planned_models(config, hf, place), capacity)


def planned_models(config: TrainConfig | SftConfig, hf, place: Place) -> tuple[Formula, list[Built]]:
    """The first arguments of stages_of, for such a run; raises ValueError as planned_stages."""
    check_fields(asdict(hf), config.parallel)
    tokens = micro_batch_tokens(config, config.parallel.data_parallel(place.world))
    logprobs = "chunked" if config.compute.logprobs == "chunked" else "fused"
    in_flight = 2 * config.parallel.pp * (config.parallel.vpp or 1)
    work = Workload(config.parallel, config.compute.recompute, config.model.dtype, place.world, tokens, in_flight, logprobs)
    formula = Formula(hf, work)
    models = [formula.stage(role, stage) for role in roles(config) for stage in range(config.parallel.pp)]
    return formula, formula.placed(models, optimizers(config))


def _stage(config: TrainConfig | SftConfig, formula: Formula, models: list[Built]) -> Stage:
    stage, activations = models[0].stage, max(m.activations for m in models)
    return Stage(
        stage,
        models,
        logprobs=formula.logprobs(stage),
        fp8=sum(m.parameters for m in models) * FP8_BYTES * (config.compute.fp8 != "none"),
        allowance=PROCESS_GIB * GIB + FRAGMENTATION * activations,
        sync=PROCESS_GIB * GIB + formula.buffer() + _sent(config, formula, stage),
        loading=PROCESS_GIB * GIB + formula.put_together(),
        offload=config.compute.offload,
    )


def _sent(config: TrainConfig | SftConfig, formula: Formula, stage: int) -> float:
    """Of new weights, on their sender: buckets, each of a tensor at least, and what they are made of and turned into."""
    rollout, hf, number = config.rollout, formula.hf, formula.number
    projection, words = hf.hidden_size * hf.intermediate_size * number, hf.hidden_size * hf.vocab_size * number
    vocabulary = words * (stage in (0, config.parallel.pp - 1))
    bucket = max(rollout.sync_bucket_mb * 2**20, projection)
    # Gathered over TP, gate and up are one tensor; each is copied, and one kept until both are hashed. A vocabulary is not copied.
    gathered = max(vocabulary, bucket + 3 * projection)
    if rollout.sync == "tensor":  # every rank gets every stage's tensors, of each its share of a bucket at a time or one that is larger
        others = (config.parallel.pp - 1) / config.parallel.pp * rollout.sync_bucket_mb * 2**20
        return gathered * (config.parallel.tp > 1) + HANDED_OVER * (max(words, bucket - others) + others)
    waiting = (BUCKETS - 1) * bucket
    flat = max(vocabulary, bucket) * (rollout.sync == "distributed")  # for NCCL
    return (waiting + gathered) * (config.parallel.tp > 1) + flat


def memory_obstacles(config: TrainConfig | SftConfig, stages: Sequence[Stage], engine: EngineMemory, card: Card) -> Iterator[Obstacle]:
    """Why they do not fit on their GPUs."""
    rollout = config.rollout
    for what in ("training", "sampling"):
        fullest = max(stages, key=lambda s: getattr(s, what))
        needed = getattr(fullest, what)
        if needed > card.memory:
            yield Obstacle(f"stage {fullest.stage} needs {needed / GIB:.1f} GiB while {what}, {card.name} has {card.memory / GIB:.1f}")
    if not config.has_engines:
        return
    if rollout.placement != "colocated" and engine.total > card.memory:
        needed = f"{engine.total / GIB:.1f} GiB on each of its {rollout.tp} GPUs"
        yield Obstacle(f"an engine needs {needed}, {card.name} has {card.memory / GIB:.1f}")
    if engine.kv_tokens < rollout.max_total_tokens:
        yield Obstacle(
            f"an engine of rollout.tp={rollout.tp} has room for {engine.kv_tokens:,} tokens beside its weights, less than one trajectory "
            f"of rollout.max_total_tokens={rollout.max_total_tokens:,}",
        )
