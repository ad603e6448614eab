"""Before ranks and engines are started: what cannot fit into the memory of a machine without GPUs is refused."""

from typing import TYPE_CHECKING

from megatron_oreal.launcher import Placement, number

if TYPE_CHECKING:
    from megatron_oreal.learn.config import ParallelConfig
    from megatron_oreal.plan.host.fit import Config
    from megatron_oreal.plan.host.need import Place


def refuse_what_cannot_fit(config: "Config") -> None:
    """Where there are no GPUs. memory_gib is the word of whoever knows better.

    Raises:
        ValueError: one line; who needs how much, and what would fit. Or the layout divides neither the ranks nor the model.
    """
    import torch  # these here, because they take seconds

    from megatron_oreal.model.shape import read_shape
    from megatron_oreal.plan.host.fit import fit_of

    if torch.cuda.is_available():
        return
    try:
        shape = read_shape(config.model.path)
    except ValueError:  # what is wrong with the model is for the run to say
        return
    fit = fit_of(config, shape, _places)
    if not fit.fits:
        raise ValueError(f"memory: this {fit.line}; {fit.advice}; memory_gib=N says that it may take N GiB")


def _places(parallel: "ParallelConfig") -> "Place":
    """Ranks that torchrun or srun has started; else those that the launcher will start here."""
    from megatron_oreal.plan.host.need import Place

    placement = Placement.detect()
    if "RANK" in placement.variables:
        return Place(placement.world_size, number("LOCAL_WORLD_SIZE") or placement.world_size)
    if placement.world_size > 1:
        return Place(placement.world_size, -(-placement.world_size // (number("SLURM_NNODES") or 1)))
    return Place(parallel.ranks, parallel.ranks)
