"""Before ranks and engines are started: what engines lack, or memory has no room for, is refused; a cache gets what the models leave it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.engines.abilities import refuse_what_engines_lack
from megatron_oreal.launcher import Placement, number
from megatron_oreal.machine import Memory, gpu_memory
from megatron_oreal.rollout.config import RolloutConfig

if TYPE_CHECKING:
    from megatron_oreal.learn.config import ParallelConfig
    from megatron_oreal.model.shape import Shape
    from megatron_oreal.plan.host.fit import Config
    from megatron_oreal.plan.host.need import Place
    from megatron_oreal.plan.stages import Obstacle


def refuse_what_cannot_run(config: "Config") -> None:
    """What engines that ranks start here cannot do, and what cannot fit.

    memory_gib is the word of whoever knows better, of a machine without GPUs or of each GPU.

    Raises:
        ValueError: one line; what an engine lacks, or who needs how much, and what would fit. Or the layout divides neither the ranks
            nor the model.
    """
    from megatron_oreal.model.shape import read_shape

    if config.rollout.placement == "colocated" and getattr(config, "has_engines", True):
        refuse_what_engines_lack(config.rollout)
    try:
        shape = read_shape(config.model.path)
    except ValueError:  # what is wrong with the model is for the run to say
        return
    refuse_what_cannot_fit_of(config, shape)


def refuse_what_cannot_fit_of(config: "Config", shape: "Shape") -> None:
    """The same of a model of these sizes."""
    import torch  # these here, because they take seconds

    from megatron_oreal.plan.host.fit import fit_of

    if torch.cuda.is_available():
        _refuse_on_gpus(config, shape)
        return
    fit = fit_of(config, shape, _places)
    if not fit.fits:
        raise ValueError(f"memory: this {fit.line}; {fit.advice}; memory_gib=N says that it may take N GiB")


def _refuse_on_gpus(config: "Config", hf: "Shape") -> None:
    """What models share with engines or have alone. Engines without models size themselves."""
    if not isinstance(config, TrainConfig | SftConfig):
        return
    place = _places(config.parallel)
    for obstacle in obstacles_on_gpus(config, hf, place, _capacity(config), Memory.of_this_machine().total):
        raise ValueError(f"memory: {obstacle.reason}; {advice(place)}; memory_gib=N says that a GPU has N GiB for it")


def advice(place: "Place") -> str:
    """Where to find out what would fit on GPUs."""
    return f"`megatron-oreal plan` with the same overrides, plan.gpus={place.world} and plan.gpu=NAME says what would"


def obstacles_on_gpus(
    config: TrainConfig | SftConfig, hf: "Shape", place: "Place", capacity: float | None, host: int
) -> "Sequence[Obstacle]":
    """Why a run does not fit on its GPUs and their hosts; none where nothing learns, or nobody knows how large the former are.

    Args:
        capacity: bytes of each GPU.
        host: bytes of a host's memory.
    Raises:
        ValueError: the layout divides neither the ranks nor the model.
    """
    from megatron_oreal.plan.files import Files, host_obstacles
    from megatron_oreal.plan.stages import Card, memory_obstacles, planned_models, stages_of

    if capacity is None or not _learns(config):
        return []
    formula, models = planned_models(config, hf, place)
    stages, engine = stages_of(config, formula, models, capacity)
    files = Files.of(config, formula, models, place.here)
    return [*memory_obstacles(config, stages, engine, Card("each", capacity)), *host_obstacles(files, host)]


def rollout_with_cache(config: TrainConfig | SftConfig, hf: "Shape", place: "Place", capacity: float | None = None) -> RolloutConfig:
    """rollout, with a cache as large as the models leave room for where engines share their GPUs and nobody says how large it is.

    Args:
        capacity: bytes of each GPU; None: as the driver says.
    """
    from megatron_oreal.plan.engine import CACHE, sized
    from megatron_oreal.plan.stages import planned_stages

    rollout, capacity = config.rollout, capacity or _capacity(config)
    if rollout.placement != "colocated" or sized(rollout) or not _learns(config) or capacity is None:
        return rollout
    _, engine = planned_stages(config, hf, place, capacity)
    return replace(rollout, server_args={**rollout.server_args, CACHE: engine.kv_tokens})


def _learns(config: TrainConfig | SftConfig) -> bool:
    return isinstance(config, SftConfig) or config.mode != "rollout_only"


def _capacity(config: "Config") -> float | None:
    return config.memory_gib * GIB if config.memory_gib else gpu_memory()


def _places(parallel: "ParallelConfig") -> "Place":
    """Ranks that torchrun or srun has started; else those that the launcher will start here."""
    from megatron_oreal.plan.host.need import Place

    placement = Placement.detect()
    if "RANK" in placement.variables:
        return Place(placement.world_size, number("LOCAL_WORLD_SIZE") or placement.world_size)
    if placement.world_size > 1:
        return Place(placement.world_size, -(-placement.world_size // (number("SLURM_NNODES") or 1)))
    return Place(parallel.ranks, parallel.ranks)
