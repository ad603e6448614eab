"""Layouts that fit: the fastest ones, and the one that changes least where the configuration does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

from megatron_oreal.devices import DEVICES
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.model.config import ComputeConfig, Layout
from megatron_oreal.model.split import Split
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.fit import Plan, make_plan
from megatron_oreal.plan.shapes import Architecture

TENSOR, PIPELINE, CHUNKS, CONTEXT = (1, 2, 4, 8), (1, 2, 4, 8), (None, 2, 4), (1, 2, 4)
RECOMPUTE = ("none", "mlp", "full")
"""Not "core_attn": it drops what attention keeps of its scores, which is nothing with fused kernels."""
CONFIRMED = 3
"""Candidates that are built, one after the other, until one fits: formula and build differ by little."""
BUDGETS = (1, 2)
"""Tokens of a micro-batch, in longest trajectories."""


@dataclass(frozen=True)
class Candidate:
    """A layout by the formula, and how to ask for it."""

    plan: Plan
    changes: tuple[str, ...]  # overrides that lead to it

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.plan.seconds


def candidates(config: Planned, model: Architecture) -> list[Candidate]:
    """All layouts tried whose memory suffices by the formula, the fastest first. Engines stay as they are."""
    tried = (make_plan(c, model, builds=False) for c in _layouts(config, model))
    fitting = [Candidate(plan, changes(config, plan.config)) for plan in tried if not plan.memory]
    return sorted(fitting, key=lambda c: (c.seconds, len(c.changes), c.plan.fullest))


def suggestion(plan: Plan) -> str | None:
    """Overrides with which a plan that does not fit would, few if it can be; None where none are found."""
    remedies = [o.remedy for o in plan.engines]
    if None in remedies:
        return None
    if plan.memory:
        nearest = min(candidates(plan.config, plan.model), key=lambda c: (len(c.changes), c.seconds), default=None)
        changed = _smaller_cache(plan) or _wider_engines(plan) or (nearest.changes if nearest else ())
        if not changed:
            return None
        remedies += changed
    return " ".join(dict.fromkeys(remedies))


def _smaller_cache(plan: Plan) -> tuple[str, ...]:
    """The engines' cache cut down to what the models leave, if that is all it takes and one trajectory still fits; else nothing."""
    config, engine = plan.config, plan.engine
    excess = max(max(s.sampling, s.training * config.rollout.cache_stays) for s in plan.stages) - DEVICES[config.plan.gpu].memory
    if excess <= 0 or not engine.kv_tokens:
        return ()
    tokens = engine.kv_tokens - ceil(excess / (engine.kv_cache / engine.kv_tokens))
    if tokens < config.rollout.max_total_tokens:
        return ()
    arguments = {**config.rollout.server_args, "max-total-tokens": tokens}
    smaller = replace(config, rollout=replace(config.rollout, server_args=arguments))
    fits = not make_plan(smaller, plan.model, builds=False).memory
    return (f"++rollout.server_args.max-total-tokens={tokens}",) if fits else ()


def _wider_engines(plan: Plan) -> tuple[str, ...]:
    """Fewer engines with a higher TP each, on as many GPUs, if that is all it takes; else nothing."""
    rollout = plan.config.rollout
    gpus = rollout.engines * rollout.tp
    for tp in (t for t in TENSOR if t > rollout.tp and gpus % t == 0):
        wider = replace(plan.config, rollout=replace(rollout, tp=tp, engines=gpus // tp))
        if not make_plan(wider, plan.model, builds=False).obstacles:
            return f"rollout.tp={tp}", f"rollout.engines={gpus // tp}"
    return ()


def _layouts(config: Planned, model: Architecture) -> Iterator[Planned]:
    plan = config.plan
    for tp, pp, vpp, cp in product(TENSOR, PIPELINE, CHUNKS, CONTEXT):
        if tp * cp > plan.gpus_per_host or plan.gpus % (tp * pp * cp) or (vpp and pp == 1):
            continue
        parallel = replace(config.parallel, tp=tp, pp=pp, vpp=vpp, cp=cp, dp=None, sequence_parallel=tp > 1)
        if not _divides(model, parallel):
            continue
        longest = Split(cp).padded(config.rollout.max_total_tokens)
        budgets = {longest * share for share in BUDGETS} | {max(longest, config.learn.tokens_per_micro_batch)}
        for recompute, budget in product(RECOMPUTE, sorted(budgets)):
            compute: ComputeConfig = replace(config.compute, recompute=recompute)
            yield replace(config, parallel=parallel, compute=compute, learn=replace(config.learn, tokens_per_micro_batch=budget))


def _divides(model: Architecture, parallel: Layout) -> bool:
    try:
        check_fields(model.fields, parallel)
    except ValueError:
        return False
    return True


def changes(old: Planned, new: Planned) -> tuple[str, ...]:
    """Overrides that make one layout of the other."""
    keys = ("tp", "pp", "vpp", "cp", "sequence_parallel")
    pairs = [(f"parallel.{k}", getattr(old.parallel, k), getattr(new.parallel, k)) for k in keys]
    pairs.append(("compute.recompute", old.compute.recompute, new.compute.recompute))
    pairs.append(("learn.tokens_per_micro_batch", old.learn.tokens_per_micro_batch, new.learn.tokens_per_micro_batch))
    if old.parallel.dp is not None:
        pairs.append(("parallel.dp", old.parallel.dp, new.parallel.dp))
    return tuple(f"{key}={_written(b)}" for key, a, b in pairs if a != b)


def _written(value: object) -> str:
    return "null" if value is None else str(value).lower()


def confirmed(config: Planned, model: Architecture, builds: bool) -> tuple[list[Candidate], Plan | None]:
    """All candidates, and the plan of the fastest that still fits once its models are built; None where none does.

    Raises:
        BuildFailed: see build.
    """
    found = candidates(config, model)
    for candidate in found[:CONFIRMED]:
        plan = make_plan(candidate.plan.config, model, builds)
        if not plan.memory:
            return found, plan
    return found, None
