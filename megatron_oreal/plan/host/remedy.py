"""What would fit a machine without GPUs where a run does not: the fewest changes, and of those the ones that cost least."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig
from megatron_oreal.model.config import sequence_multiple
from megatron_oreal.plan.host.need import Need

Config = TypeVar("Config", TrainConfig, SftConfig, EvaluateConfig, PassrateConfig)
Asks = Callable[[Config], Need]
"""What a configuration needs."""
Smaller = Iterator[tuple[Config, str]]
"""Configurations that need less, the least change first, each with the overrides that lead to it."""


def remedy(config: Config, need: Asks, memory: int) -> tuple[str, int] | None:
    """Overrides with which `config` fits into so many bytes, and what it needs then; None where none are found."""
    ways = _ways(config)
    for count in range(1, len(ways) + 1):
        for some in combinations(ways, count):
            for smaller, overrides in _applied(config, need, some):
                total = _total(need, smaller)
                if total is not None and total <= memory:
                    return " ".join(overrides), total
    return None


def _ways(config: Config) -> list[Callable[[Config, Need], Smaller]]:
    """In the order in which they are to be taken."""
    training = [_micro_batches, _offload, _recompute] if hasattr(config, "learn") else []
    sampling = [_cache, _engines] if config.rollout.placement == "colocated" else []
    layout = [_ranks] if hasattr(config, "parallel") else []
    return [*training, *sampling, *layout, *([_token_rm] if isinstance(config, TrainConfig) else [])]


def _applied(config: Config, need: Asks, ways: tuple) -> Iterator[tuple[Config, list[str]]]:
    """All combinations of what these ways offer."""
    if not ways:
        yield config, []
        return
    for smaller, overrides in _applied(config, need, ways[:-1]):
        try:
            for smallest, override in ways[-1](smaller, need(smaller)):
                yield smallest, [*overrides, override]
        except ValueError:  # the configuration refuses it
            continue


def _total(need: Asks, config: Config) -> int | None:
    """None where the layout does not work out."""
    try:
        return need(config).total
    except ValueError:
        return None


def _halves(number: int, least: int) -> Iterator[int]:
    """Ever smaller numbers, the least last."""
    while number > least:
        number = max(number // 2, least)
        yield number


def _micro_batches(config: Config, _: Need) -> Smaller:
    budget = config.learn.tokens_per_micro_batch
    least = budget // 8  # of a supervised start nobody knows here how long its examples are
    if isinstance(config, TrainConfig):
        multiple = sequence_multiple(config.parallel.cp)
        least = -(-config.rollout.max_total_tokens // multiple) * multiple
    for tokens in _halves(budget, max(least, 1)):
        yield replace(config, learn=replace(config.learn, tokens_per_micro_batch=tokens)), f"learn.tokens_per_micro_batch={tokens}"


def _offload(config: Config, _: Need) -> Smaller:
    if config.compute.offload != "all":
        yield replace(config, compute=replace(config.compute, offload="all")), "compute.offload=all"


def _recompute(config: Config, _: Need) -> Smaller:
    if config.compute.recompute != "full":
        yield replace(config, compute=replace(config.compute, recompute="full")), "compute.recompute=full"


def _cache(config: Config, need: Need) -> Smaller:
    rollout = config.rollout
    for tokens in _halves(need.engines[0].kv_tokens, rollout.max_total_tokens + 1) if need.engines else ():
        smaller = replace(rollout, server_args={**rollout.server_args, "max-total-tokens": tokens})
        yield replace(config, rollout=smaller), f"rollout.server_args.max-total-tokens={tokens}"


def _engines(config: Config, _: Need) -> Smaller:
    if config.rollout.engines > 1:
        yield replace(config, rollout=replace(config.rollout, engines=1)), "rollout.engines=1"


def _ranks(config: Config, need: Need) -> Smaller:
    """Fewer ranks: data-parallel ones hold the models again, and every rank its own libraries."""
    parallel = config.parallel
    for name in ("dp", "cp", "tp"):
        if (getattr(parallel, name) or 1) > 1:
            alone = {name: 1} | ({"sequence_parallel": False} if name == "tp" and parallel.sequence_parallel else {})
            override = " ".join(f"parallel.{key}={str(value).lower()}" for key, value in alone.items())
            yield replace(config, parallel=replace(parallel, **alone)), override


def _token_rm(config: Config, _: Need) -> Smaller:
    if config.objective.token_rm:
        objective, policy = replace(config.objective, token_rm=False), replace(config.policy, freeze_steps=0)
        freeze = " policy.freeze_steps=0" if config.policy.freeze_steps else ""
        yield replace(config, objective=objective, policy=policy), f"objective.token_rm=false{freeze}"
