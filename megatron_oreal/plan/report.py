"""A plan for people and for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.plan.fit import Plan
from megatron_oreal.plan.search import Candidate
from megatron_oreal.plan.stages import PROCESS_GIB
from megatron_oreal.plan.tables import NAMES, gib, row

SHOWN = 5
"""Layouts of a search."""


def as_text(plan: Plan, suggestion: str | None, found: Sequence[Candidate] | None) -> str:
    """Tables; memory in GiB of one GPU."""
    blocks = [_head(plan), _models(plan), _gpus(plan), _step(plan)]
    if found is not None:
        blocks.append(_found(found))
    return "\n\n".join("\n".join(block) for block in [*blocks, _verdict(plan, suggestion)])


def _head(plan: Plan) -> Iterator[str]:
    config, parallel = plan.config, plan.config.parallel
    dp = parallel.data_parallel(config.plan.gpus)
    vpp = f" (VPP {parallel.vpp})" if parallel.vpp else ""
    yield f"{plan.model.source}: {plan.parameters / 1e9:.2f} B parameters, {config.plan.gpus} x {config.plan.gpu}"
    yield (
        f"TP {parallel.tp}, PP {parallel.pp}{vpp}, CP {parallel.cp}, DP {dp}; recompute {config.compute.recompute}, "
        f"{config.learn.tokens_per_micro_batch:,} tokens a micro-batch"
    )


def _models(plan: Plan) -> Iterator[str]:
    yield row("GiB a GPU", ("parameters", "weights", "gradients", "optimizer", "activations", "log-probs"))
    for stage in plan.stages:
        for m in stage.models:
            logprobs = stage.logprobs if m.role == "policy" else 0
            sizes = [gib(n) for n in (m.weights, m.gradients, m.optimizer, m.activations, logprobs)]
            yield row(f"stage {stage.stage}, {NAMES[m.role]}", (f"{m.parameters / 1e9:.3f} B", *sizes))


def _gpus(plan: Plan) -> Iterator[str]:
    e = plan.engine
    yield (
        f"engine: weights {gib(e.weights)}, KV cache of {e.kv_tokens:,} tokens {gib(e.kv_cache)}, else {gib(e.working)}; "
        f"while the models train {gib(e.released)}"
    )
    yield row("GiB a GPU", ("state", "+ activations", "+ else", "+ engine", "= training", "state", "+ else", "+ engine", "= sampling"))
    for s in plan.stages:
        training = (s.state, s.activations, s.allowance, s.released, s.training)
        sampling = (s.resting, s.sync, s.engine, s.sampling)
        yield row(f"stage {s.stage}", [gib(n) for n in (*training, *sampling)])
    files, loading = plan.files, max(s.loading - PROCESS_GIB * GIB for s in plan.stages)
    host = f"{gib(files.saving)} of a host's memory, pinned, an export {gib(files.exporting)}"
    if files.optimizers:
        yield f"optimizers are in {gib(files.optimizers)} of a host's memory, pinned (optimizer.on_host)"
    if files.resting:
        yield f"between their turns models rest in {gib(files.resting)} of a host's memory, pinned (compute.offload)"
    yield f"checkpoints: writing takes nothing of a GPU and {host}; reading {gib(loading)} of a GPU, {gib(files.loading)} of a host's"


def _step(plan: Plan) -> Iterator[str]:
    yield f"operations as by {plan.prices}"
    yield row("a step", ("PFLOP", "seconds", "from", "to"))
    for part in plan.parts:
        figures = [f"{part.flops / 1e15:.1f}", f"{part.seconds:.1f}"]
        likely = ["meanwhile"] if part.overlapped else [f"{seconds:.1f}" for seconds in part.likely]
        yield row(part.name, figures + likely)
    steps, flops = plan.config.steps, sum(part.flops for part in plan.parts)
    figures = [f"{flops / 1e15:.1f}", *(f"{seconds:.1f}" for seconds in (plan.seconds, *plan.likely))]
    yield row("in all", figures) + f"; {steps} steps: {plan.hours:.1f} h"


def _found(found: Sequence[Candidate]) -> Iterator[str]:
    yield f"{len(found)} layouts fit by the formula" + (", the fastest:" if found else "")
    for candidate in found[:SHOWN]:
        yield f"{candidate.seconds:8.1f} s {gib(candidate.plan.fullest):>6} GiB  {' '.join(candidate.changes) or 'as it is'}"


def _verdict(plan: Plan, suggestion: str | None) -> Iterator[str]:
    yield from (f"note: {note}" for note in plan.notes)
    if not plan.obstacles:
        yield f"fits: at most {gib(plan.fullest)} of {DEVICES[plan.config.plan.gpu].memory_gib} GiB a GPU"
        return
    yield from (f"does not fit: {obstacle.reason}" for obstacle in plan.obstacles)
    yield (
        f"suggestion: {suggestion}"
        if suggestion
        else "no change was found with which it fits: more GPUs (plan.gpus), or larger ones (plan.gpu)"
    )


def as_json(plan: Plan, suggestion: str | None, found: Sequence[Candidate] | None) -> dict[str, Any]:
    """All figures; memory in bytes of one GPU."""
    config, parallel, engine = plan.config, plan.config.parallel, plan.engine
    layout = {"tp": parallel.tp, "pp": parallel.pp, "vpp": parallel.vpp, "cp": parallel.cp}
    search = [{"overrides": list(c.changes), "seconds": c.seconds, "fullest": round(c.plan.fullest)} for c in found or ()]
    return {
        "fits": not plan.obstacles,
        "reasons": [obstacle.reason for obstacle in plan.obstacles],
        "suggestion": suggestion,
        "notes": plan.notes,
        "shape": plan.model.source,
        "parameters": plan.parameters,
        "gpus": config.plan.gpus,
        "gpu": config.plan.gpu,
        "gpu_memory": round(DEVICES[config.plan.gpu].memory),
        "layout": layout | {"dp": parallel.data_parallel(config.plan.gpus)},
        "fullest": round(plan.fullest),
        "stages": [_stage_json(stage) for stage in plan.stages],
        "engine": {
            "weights": round(engine.weights),
            "kv_cache": round(engine.kv_cache),
            "kv_tokens": engine.kv_tokens,
            "working": round(engine.working),
            "total": round(engine.total),
            "released": round(engine.released),
        },
        "host": asdict(plan.files),
        "prices": plan.prices,
        "step": {part.name.replace(" ", "_"): {"flops": part.flops, "seconds": part.seconds, "likely": part.likely} for part in plan.parts},
        "step_seconds": plan.seconds,
        "step_seconds_likely": plan.likely,
        "search": search if found is not None else None,
    }


def _stage_json(stage) -> dict[str, Any]:
    def model(m) -> dict[str, int]:
        figures = {name: getattr(m, name) for name in ("parameters", "weights", "gradients", "optimizer", "activations")}
        return figures | {"logprobs": round(stage.logprobs) if m.role == "policy" else 0}

    names = ("loaded", "resting", "state", "activations", "allowance", "released", "training", "sync", "loading", "engine", "sampling")
    return {"stage": stage.stage, "models": {m.role: model(m) for m in stage.models}} | {n: round(getattr(stage, n)) for n in names}
