"""What a run holds of a machine without GPUs, for people and for programs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.host.fit import Fit
from megatron_oreal.plan.host.need import RankNeed
from megatron_oreal.plan.memory import whole
from megatron_oreal.plan.tables import NAMES, gib, row


def as_text(config: Planned, hf, shape: str, fit: Fit) -> str:
    """Tables; memory in GiB."""
    blocks = (_head(config, hf, shape, fit), _ranks(fit), _engines(fit), _sum(fit), _verdict(fit))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(config: Planned, hf, shape: str, fit: Fit) -> list[str]:
    parallel, count = config.parallel, len(fit.need.ranks)
    return [
        f"{shape}: {whole(hf) / 1e9:.2f} B parameters in {config.model.dtype}, {count} rank{'s' * (count > 1)} on a machine without GPUs",
        f"TP {parallel.tp}, PP {parallel.pp}, CP {parallel.cp}; recompute {config.compute.recompute}, "
        f"{config.learn.tokens_per_micro_batch:,} tokens a micro-batch",
    ]


def _ranks(fit: Fit) -> list[str]:
    lines = [row("GiB a rank", ("parameters", "weights", "gradients", "optimizer", "activations", "log-probs"))]
    for rank, _ in _stages(fit.need.ranks):
        for m in rank.models:
            sizes = (m.weights, m.gradients, m.optimizer + m.on_host, m.activations, rank.logprobs if m.role == "policy" else 0)
            lines.append(row(f"stage {rank.stage}, {NAMES[m.role]}", (f"{m.parameters / 1e9:.3f} B", *map(gib, sizes))))
    lines += ["", row("GiB a rank", ("process", "+ state", "= sampling", "+ working", "= training", "ranks", "sent by one"))]
    for rank, count in _stages(fit.need.ranks):
        sizes = map(gib, (rank.process, rank.state, rank.resting, rank.working, rank.training))
        lines.append(row(f"stage {rank.stage}", (*sizes, str(count), gib(rank.sent))))
    return lines if fit.need.ranks else []


def _stages(ranks: Sequence[RankNeed]) -> Iterator[tuple[RankNeed, int]]:
    """One rank of each stage, and how many there are here."""
    for _, some in groupby(sorted(ranks, key=lambda r: r.stage), key=lambda r: r.stage):
        same = list(some)
        yield same[0], len(same)


def _engines(fit: Fit) -> list[str]:
    if not fit.need.engines:
        return []
    e, count = fit.need.engines[0], len(fit.need.engines)
    head = ("process", "+ weights", "+ cache", "= training", "+ working", "= sampling", "engines")
    cells = (*map(gib, (e.process, e.weights, e.cache, e.resting, e.working, e.sampling)), str(count))
    return [row("GiB an engine", head), row(f"{e.kv_tokens:,} tokens", cells)]


def _sum(fit: Fit) -> list[str]:
    need = fit.need
    alike = (need.workers, need.launcher)
    training = (need.ranks_training, need.engines_resting, *alike, need.training)
    sampling = (need.ranks_resting, need.engines_sampling, *alike, need.sampling)
    head = row("GiB", ("ranks", "engines", "rule check", "launcher", "in all"))
    return [head, row("training", list(map(gib, training))), row("sampling", list(map(gib, sampling)))]


def _verdict(fit: Fit) -> list[str]:
    memory, need = fit.memory, fit.need
    there = f"{gib(memory.total)} GiB, of which {gib(memory.free)} are free"
    if not fit.fits:
        return [f"does not fit: {gib(need.total)} GiB, and there are {there}", f"suggestion: {fit.advice}"]
    busy = ["note: more than is free now: something else holds memory here"] if need.total > memory.free else []
    return [*busy, f"fits: {gib(need.total)} of {there}"]


def as_json(config: Planned, hf, shape: str, fit: Fit) -> dict[str, Any]:
    """All figures, in bytes."""
    parallel, need = config.parallel, fit.need
    overrides = fit.suggestion[0] if fit.suggestion else None
    return {
        "fits": fit.fits,
        "reasons": [] if fit.fits else [fit.line],
        "suggestion": None if fit.fits else overrides,
        "shape": shape,
        "parameters": whole(hf),
        "gpu": config.plan.gpu,
        "layout": {"tp": parallel.tp, "pp": parallel.pp, "vpp": parallel.vpp, "cp": parallel.cp},
        "memory": {"total": fit.memory.total, "free": fit.memory.free},
        "ranks": [_rank_json(rank) for rank in need.ranks],
        "engines": [_engine_json(engine) for engine in need.engines],
        "workers": need.workers,
        "launcher": need.launcher,
        "training": need.training,
        "sampling": need.sampling,
        "total": need.total,
    }


def _rank_json(rank: RankNeed) -> dict[str, Any]:
    figures = ("parameters", "weights", "gradients", "optimizer", "on_host", "activations")
    models = {m.role: {name: getattr(m, name) for name in figures} for m in rank.models}
    parts = ("process", "state", "logprobs", "working", "sent", "exported", "written", "resting", "training")
    return {"stage": rank.stage, "models": models} | {name: getattr(rank, name) for name in parts}


def _engine_json(engine) -> dict[str, int]:
    return {name: getattr(engine, name) for name in ("process", "weights", "cache", "working", "resting", "sampling", "kv_tokens")}
