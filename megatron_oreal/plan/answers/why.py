"""What costs most in a step, and what would change it: overrides are tried, by the planner itself, and not guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.fit import Plan, make_plan
from megatron_oreal.plan.schedules import CONTINUOUS

SHOWN = 3
FASTER_DISK = 4
"""Times as fast as planned: a file system that is tried."""


@dataclass(frozen=True)
class Reason:
    """A part of a step, and the override that takes most off the step."""

    part: str
    seconds: float
    share: float  # of the step
    overrides: tuple[str, ...]  # none where nothing that was tried helps and fits
    saved: float  # seconds of the step


def reasons(plan: Plan) -> list[Reason]:
    """The dearest parts first."""
    parts = sorted((p for p in plan.parts if not p.overlapped), key=lambda p: -p.seconds)[:SHOWN]
    return [_reason(plan, part.name, part.seconds) for part in parts]


def _reason(plan: Plan, part: str, seconds: float) -> Reason:
    found: tuple[float, tuple[str, ...]] = (0.0, ())
    for overrides, changed in _tried(part, plan.config):
        saved = _saved(plan, changed)
        if saved > found[0]:
            found = (saved, overrides)
    return Reason(part, seconds, seconds / plan.seconds, found[1], found[0])


def _saved(plan: Plan, changed: Planned) -> float:
    """Seconds of a step; 0 where it is not possible."""
    try:
        other = make_plan(changed, plan.model, builds=False)
    except ValueError:
        return 0.0
    return 0.0 if other.obstacles else plan.seconds - other.seconds


def _tried(part: str, config: Planned) -> Iterator[tuple[tuple[str, ...], Planned]]:
    if part == "rollout":
        yield from _engines(config)
    elif part == "sync":
        yield from _syncs(config)
    else:
        yield from _passes(config)


def _engines(config: Planned) -> Iterator[tuple[tuple[str, ...], Planned]]:
    """Engines that do not drain, wider or more of them, fewer bits."""
    rollout = config.rollout
    if rollout.in_flight == 1:
        yield ("schedule=continuous",), replace(config, rollout=replace(rollout, in_flight=CONTINUOUS[0]))
    elif not rollout.keep_cache:
        yield ("rollout.keep_cache=true",), replace(config, rollout=replace(rollout, keep_cache=True))
    gpus = rollout.tp * rollout.engines
    for tp in (rollout.tp // 2, rollout.tp * 2):
        if tp and gpus % tp == 0 and tp <= config.plan.gpus_per_host:
            changed = replace(rollout, tp=tp, engines=gpus // tp)
            yield (f"rollout.tp={tp}", f"rollout.engines={gpus // tp}"), replace(config, rollout=changed)
    if rollout.kv_cache_dtype == "auto" and rollout.placement != "external":
        yield ("rollout.kv_cache_dtype=fp8_e4m3",), replace(config, rollout=replace(rollout, kv_cache_dtype="fp8_e4m3"))


def _syncs(config: Planned) -> Iterator[tuple[tuple[str, ...], Planned]]:
    """Engines that stay awake, other ways, or a faster file system."""
    if config.rollout.releases_memory():
        yield ("rollout.release_memory=false",), replace(config, rollout=replace(config.rollout, release_memory=False))
    for sync in {"tensor", "distributed", "disk"} - {config.rollout.sync}:
        yield (f"rollout.sync={sync}",), replace(config, rollout=replace(config.rollout, sync=sync))
    speed = FASTER_DISK * config.plan.disk_gb_s
    yield (f"plan.disk_gb_s={speed:g}",), replace(config, plan=replace(config.plan, disk_gb_s=speed))


def _passes(config: Planned) -> Iterator[tuple[tuple[str, ...], Planned]]:
    """Without recomputation; less cut up."""
    if config.compute.recompute != "none":
        yield ("compute.recompute=none",), replace(config, compute=replace(config.compute, recompute="none"))
    layout = config.parallel
    for name in ("tp", "pp", "cp"):
        size = getattr(layout, name)
        if size > 1:
            alone = {"sequence_parallel": size > 2} if name == "tp" else {"vpp": None} if name == "pp" and size == 2 else {}
            changed = replace(layout, **{name: size // 2}, **alone, dp=None)
            yield tuple(f"parallel.{k}={_written(v)}" for k, v in ({name: size // 2} | alone).items()), replace(config, parallel=changed)
    tokens = 2 * config.learn.tokens_per_micro_batch
    larger = replace(config.learn, tokens_per_micro_batch=tokens)
    yield (f"learn.tokens_per_micro_batch={tokens}",), replace(config, learn=larger)


def _written(value: object) -> str:
    return "null" if value is None else str(value).lower()


def as_text(found: Sequence[Reason]) -> Iterator[str]:
    """A line for each."""
    for r in found:
        change = f"{' '.join(r.overrides)} would save {r.saved:.1f} s" if r.overrides else "nothing that was tried helps and fits"
        yield f"{r.part}: {r.seconds:.1f} s, {r.share:.0%} of a step; {change}"
