"""Whether the run fits into this node's memory, or into that of its GPUs."""

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.doctor.findings import ERROR, LEFT_OUT, OK, WARNING, Findings
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.machine import Memory, gpu_memory
from megatron_oreal.model.platform import Platform
from megatron_oreal.model.shape import read_shape
from megatron_oreal.plan.host.fit import fit_of
from megatron_oreal.plan.host.need import Place
from megatron_oreal.plan.start import advice, obstacles_on_gpus


def check_memory(findings: Findings, config: TrainConfig | SftConfig, ranks: int | None, ranks_per_node: int) -> None:
    """The model can be used. `ranks`: of the job; None: as many as the layout wants, all here."""

    def places(parallel: ParallelConfig) -> Place:
        return Place(ranks, min(ranks_per_node, ranks)) if ranks else Place(parallel.ranks, parallel.ranks)

    if not Platform.detect().is_cpu:
        _check_gpus(findings, config, places(config.parallel))
        return
    fit = findings.try_out("memory", "change parallel.*", fit_of, config, read_shape(config.model.path), places)
    if fit is None:
        return
    if not fit.fits:
        findings.add(ERROR, "memory", f"the run {fit.line}", fit.advice)
    elif fit.need.total > fit.memory.free:
        findings.add(WARNING, "memory", f"the run {fit.line}, but {fit.free} are free now", "end what holds the rest, or memory runs out")
    else:
        findings.add(OK, "memory", f"the run {fit.line}")


def _check_gpus(findings: Findings, config: TrainConfig | SftConfig, place: Place) -> None:
    capacity = config.memory_gib * GIB if config.memory_gib else gpu_memory()
    if capacity is None:
        findings.add(LEFT_OUT, "memory", "the driver does not say how large a GPU is", "memory_gib=N says it")
        return
    hf = read_shape(config.model.path)
    obstacles = findings.try_out(
        "memory", "change parallel.*", obstacles_on_gpus, config, hf, place, capacity, Memory.of_this_machine().total
    )
    for obstacle in obstacles or ():
        findings.add(ERROR, "memory", obstacle.reason, advice(place))
    if obstacles == []:
        findings.add(OK, "memory", f"by the formula the run fits into {capacity / GIB:.1f} GiB a GPU, and into its host's memory")
