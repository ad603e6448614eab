"""What a step takes under each schedule: exact, and with questions that go on from step to step (conf/schedule)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.engine import engines, sampler
from megatron_oreal.plan.fit import Plan, make_plan
from megatron_oreal.plan.tables import row
from megatron_oreal.plan.timing import continuous

CONTINUOUS = (2.0,)
"""rollout.in_flight of conf/schedule/continuous.yaml."""
SEARCHED = (1.5, 2.0, 3.0, 4.0, 6.0)
HEAD = ("seconds a step", "tokens/s/GPU", "running", "age", "oldest", "max_age")


@dataclass(frozen=True)
class Scheduled:
    """A schedule's step."""

    name: str
    overrides: tuple[str, ...]  # that ask for it; none: exact
    seconds: float
    tokens_per_s: float  # sampled, of a GPU, engines' own included
    running: float = 0.0  # sequences of an engine, on average over the step; 0: not known
    age: float = 0.0  # versions between a question's first token and its training
    oldest: int = 0
    max_age: int = 0  # rollout.max_age


def schedules(plan: Plan, in_flight: Sequence[float] = CONTINUOUS, keeps: bool = False) -> list[Scheduled]:
    """The plan under the exact one, and with so many times a step's questions under way. What the plan itself asks for is among them.

    Args:
        keeps: with caches kept, too, where that fits.
    """
    config, asked = plan.config, plan.config.rollout
    wanted = [(times, kept) for times in sorted({*in_flight, asked.in_flight} - {1}) for kept in sorted({asked.keep_cache, keeps})]
    under = [_under(config, 1, 1, False), *(_under(config, times, age_of(times), kept) for times, kept in wanted)]
    made = [(one, plan if one == config else make_plan(one, plan.model, builds=False)) for one in under]
    return [_scheduled(other, one) for one, other in made if one.rollout.keep_cache == asked.keep_cache or not other.obstacles]


def age_of(in_flight: float) -> int:
    """rollout.max_age with which hardly any question has to be waited for: twice the steps that one takes on average."""
    return max(4, round(2 * in_flight))


def _under(config: Planned, in_flight: float, max_age: int, keep_cache: bool) -> Planned:
    return replace(config, rollout=replace(config.rollout, in_flight=in_flight, max_age=max_age, keep_cache=keep_cache))


def _scheduled(other: Plan, config: Planned) -> Scheduled:
    own = engines(config) * config.rollout.tp * (config.rollout.placement != "colocated")
    tokens_per_s = other.sampled / other.seconds / (config.plan.gpus + own)
    times, max_age = config.rollout.in_flight, config.rollout.max_age
    if times == 1:
        return Scheduled("exact", (), other.seconds, tokens_per_s)
    seconds = {part.name: part.seconds for part in other.parts if not part.overlapped}
    between = sum(s for name, s in seconds.items() if name not in ("rollout", "sync")), seconds["sync"]
    found = continuous(config, sampler(config, other.model.sizes, other.engine), between)
    asked = ["schedule=continuous", f"rollout.in_flight={times:g}", f"rollout.max_age={max_age}"]
    asked += ["rollout.keep_cache=true"] * config.rollout.keep_cache
    running, name = found.sequence_s / other.seconds, f"in_flight {times:g}{', kept' * config.rollout.keep_cache}"
    return Scheduled(name, tuple(asked), other.seconds, tokens_per_s, running, found.age, found.oldest, max_age)


def as_text(found: Sequence[Scheduled]) -> Iterator[str]:
    """A table."""
    yield row("schedule", HEAD)
    for s in found:
        figures = f"{s.seconds:.1f}", f"{s.tokens_per_s:.0f}"
        yield row(s.name, (*figures, f"{s.running:.1f}", f"{s.age:.1f}", f"{s.oldest}", f"{s.max_age}") if s.overrides else figures)
