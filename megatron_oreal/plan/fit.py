"""Whether a run fits: what each stage's GPU holds while the models train and while engines sample, and what stands in the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.plan import timing
from megatron_oreal.plan.build import Built, Request, Role, build
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.engine import EngineMemory, most_running, prices
from megatron_oreal.plan.files import Files
from megatron_oreal.plan.host.need import optimizers, roles
from megatron_oreal.plan.memory import NUMBER_BYTES, Formula, Workload, whole
from megatron_oreal.plan.shapes import Architecture
from megatron_oreal.plan.stages import Card, Obstacle, Stage, memory_obstacles, stages_of
from megatron_oreal.rollout.config import LOCAL

AGREE = 0.05
"""How far formula and build may differ without a note."""


@dataclass(frozen=True)
class Plan:
    """What a run needs, and whether it can have it."""

    config: Planned
    model: Architecture
    parameters: int  # of the whole model
    stages: list[Stage]
    engine: EngineMemory
    files: Files
    parts: list[timing.Part]
    prices: str  # where the seconds of operations are from
    memory: list[Obstacle]  # both empty where it fits
    engines: list[Obstacle]
    notes: list[str]

    @property
    def obstacles(self) -> list[Obstacle]:
        return self.memory + self.engines

    @property
    def fullest(self) -> float:
        """GPU memory of the fullest stage at its fullest."""
        return max(max(s.training, s.sampling) for s in self.stages)

    @property
    def seconds(self) -> float:
        return timing.step_seconds(self.parts)

    @property
    def likely(self) -> tuple[float, float]:
        """Seconds of a step, if every part is as far off as the ninth of ten published ones, to the same side."""
        both = [part.likely for part in self.parts if not part.overlapped]
        return sum(low for low, _ in both), sum(high for _, high in both)

    @property
    def hours(self) -> float:
        """Of the run."""
        return self.seconds * self.config.steps / 3600

    @property
    def sampled(self) -> int:
        """Tokens of a step, prompts included."""
        return timing.sampled_tokens(self.config)


def make_plan(config: Planned, model: Architecture, builds: bool) -> Plan:
    """Of a configuration whose layout divides the GPUs and the model.

    Args:
        builds: build the real models; else the formula alone.
    Raises:
        ValueError: the layout divides neither the GPUs nor the model.
        BuildFailed: see build.
    """
    check_fields(model.fields, config.parallel)
    hf = model.sizes
    config.parallel.data_parallel(config.plan.gpus)
    formula, wanted = Formula(hf, _workload(config, hf)), roles(config)
    models = estimated = [formula.stage(r, s) for r in wanted for s in range(config.parallel.pp)]
    if builds:
        models = _build(config, model, formula.work, wanted)
    models, estimated = (formula.placed(some, optimizers(config)) for some in (models, estimated))
    parameters, card = whole(hf), Card(f"an {config.plan.gpu}", DEVICES[config.plan.gpu].memory)
    stages, engine = stages_of(config, formula, models, card.memory)
    files = Files.of(config, formula, models, config.plan.gpus_per_host)
    parts = timing.step_parts(config, hf, engine, parameters)
    memory, engines = [*memory_obstacles(config, stages, engine, card)], [*_engine_obstacles(config, hf)]
    notes = [*_notes(config, engine, parameters), *_differences(models, estimated)]
    return Plan(config, model, parameters, stages, engine, files, parts, prices(config).source, memory, engines, notes)


def _workload(config: Planned, hf) -> Workload:
    micro_batches = timing.spread_of(config, hf).micro_batches
    compute, budget = config.compute, config.learn.tokens_per_micro_batch
    logprobs = "chunked" if compute.logprobs == "chunked" else "fused"  # Triton comes with torch's builds for CUDA
    return Workload(config.parallel, compute.recompute, config.model.dtype, config.plan.gpus, budget, micro_batches, logprobs)


def _build(config: Planned, model: Architecture, work: Workload, wanted: Sequence[Role]) -> list[Built]:
    sizes = (work.gpus, work.tokens, work.micro_batches)
    request = Request(model.fields, work.parallel, work.recompute, work.dtype, *sizes, tuple(wanted), work.logprobs)
    return build(request, config.plan.deadline_s)


def _differences(models: Sequence[Built], estimated: Sequence[Built]) -> Iterator[str]:
    for built, formula in zip(models, estimated, strict=True):
        whole, expected = (m.weights + m.gradients + m.optimizer + m.activations for m in (built, formula))
        if abs(expected / whole - 1) > AGREE:
            yield f"{built.role} at stage {built.stage}: built {whole / GIB:.2f} GiB, by the formula {expected / GIB:.2f}"


def _engine_obstacles(config: Planned, hf) -> Iterator[Obstacle]:
    """What keeps engines of one's own from starting, or weights from reaching them."""
    rollout, plan = config.rollout, config.plan
    if hf.num_attention_heads % rollout.tp:
        yield Obstacle(f"rollout.tp={rollout.tp} does not divide {hf.num_attention_heads} attention heads", "rollout.tp=1")
        return
    if rollout.placement != "colocated":
        return
    most = plan.hosts * (min(plan.gpus, plan.gpus_per_host) // rollout.tp)
    if rollout.engines > most:
        remedy = f"rollout.engines={most}" if most else None
        yield Obstacle(f"{plan.gpus} GPUs hold {most} engines of rollout.tp={rollout.tp}, not rollout.engines={rollout.engines}", remedy)
    elif rollout.engines % plan.hosts:
        reason = f"rollout.engines={rollout.engines} cannot be shared out evenly among {plan.hosts} hosts"
        yield Obstacle(reason, f"rollout.engines={most}")
    if plan.hosts > 1 and rollout.bind in LOCAL:
        yield Obstacle(f"rollout.bind={rollout.bind} hides the engines of {plan.hosts} hosts from rank 0", "rollout.bind=0.0.0.0")
    if rollout.sync == "distributed":
        reason = "rollout.sync=distributed: NCCL takes no two ranks on one GPU, which colocated engines and ranks share"
        yield Obstacle(reason, "rollout.sync=tensor")


def _notes(config: Planned, engine: EngineMemory, parameters: int) -> Iterator[str]:
    rollout, plan = config.rollout, config.plan
    if engine.kv_tokens < engine.wanted_tokens:
        yield (
            f"an engine's cache holds {engine.kv_tokens:,} of the {engine.wanted_tokens:,} tokens that it would need if all that it is "
            "asked at one time grew to the limit; what does not fit waits"
        )
    if rollout.speculative != "none":
        yield (
            f"what rollout.speculative={rollout.speculative} saves is not planned, for it depends on the answers; that an engine then runs "
            f"{most_running(rollout, engine.kv_tokens)} sequences at one time is (rollout.server_args.max-running-requests)"
        )
    idle = plan.gpus - rollout.engines * rollout.tp
    if rollout.placement == "colocated" and idle > 0:
        yield f"{idle} of {plan.gpus} GPUs hold no engine"
    if rollout.placement == "disaggregated":
        yield f"engines take {rollout.engines * rollout.tp} GPUs besides the {plan.gpus} that train"
    if rollout.placement == "external":
        yield "external engines are planned as rollout.urls of rollout.tp on GPUs of their own"
    if rollout.placement != "external" and rollout.sync == "disk":
        copy = parameters * NUMBER_BYTES[config.model.dtype] / GIB
        yield f"each host of engines keeps a copy of the weights in rollout.sync_copy: {copy:.1f} GiB of its disk, or memory"
