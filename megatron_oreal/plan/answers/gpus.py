"""What each number of GPUs buys."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.search import suggestion
from megatron_oreal.plan.shapes import Architecture
from megatron_oreal.plan.tables import gib, row

HEAD = ("seconds a step", "tokens/s/GPU", "hours", "GPU-hours", "dearest", "GiB a GPU")


@dataclass(frozen=True)
class Bought:
    """By so many GPUs; None where the run does not fit on them."""

    gpus: int
    seconds: float | None = None  # of a step
    tokens_per_s: float | None = None  # sampled, a GPU
    hours: float | None = None  # of the run
    dearest: str | None = None  # part of a step, and its share
    fullest: float | None = None  # bytes of a GPU's memory
    wrong: str | None = None


def bought(config: Planned, model: Architecture, counts: Sequence[int]) -> list[Bought]:
    """Of a configuration with as many engines as each number of GPUs holds, and as many data-parallel ranks."""
    return [_one(config, model, gpus) for gpus in counts]


def _one(config: Planned, model: Architecture, gpus: int) -> Bought:
    try:
        plan = make_plan(_on(config, gpus), model, builds=False)
    except ValueError as error:
        return Bought(gpus, wrong=str(error).splitlines()[0])
    if plan.obstacles:
        remedy = suggestion(plan)
        return Bought(gpus, wrong=plan.obstacles[0].reason + (f"; it would with {remedy}" if remedy else ""))
    part = max((p for p in plan.parts if not p.overlapped), key=lambda p: p.seconds)
    dearest = f"{part.name} {part.seconds / plan.seconds:.0%}"
    return Bought(gpus, plan.seconds, plan.sampled / plan.seconds / gpus, plan.hours, dearest, plan.fullest)


def _on(config: Planned, gpus: int) -> Planned:
    """Engines of their own GPUs stay as they are."""
    rollout = config.rollout
    if rollout.placement == "colocated":
        rollout = replace(rollout, engines=max(1, gpus // rollout.tp))
    return replace(config, rollout=rollout, parallel=replace(config.parallel, dp=None), plan=replace(config.plan, gpus=gpus))


def as_text(rows: Sequence[Bought]) -> Iterator[str]:
    """A table."""
    yield row("GPUs", HEAD)
    for b in rows:
        if b.wrong:
            yield f"{b.gpus:<18}{b.wrong}"
            continue
        figures = (
            f"{b.seconds:.0f}",
            f"{b.tokens_per_s:.0f}",
            f"{b.hours:.1f}",
            f"{b.hours * b.gpus:.0f}",
            b.dearest,
            gib(b.fullest),
        )
        yield row(str(b.gpus), figures)


def as_json(rows: Sequence[Bought]) -> list[dict]:
    """With the names of Bought, and GPU-hours."""
    return [asdict(b) | {"gpu_hours": b.hours and b.hours * b.gpus} for b in rows]


def counts_of(text: str) -> list[int]:
    """From "16,32,64". Raises ValueError where it is something else."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"plan: --gpus {text} is no list of numbers, as 16,32,64") from error
    if min(counts) < 1:
        raise ValueError(f"plan: --gpus {text}: a number of GPUs is at least 1")
    return counts
