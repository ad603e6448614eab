"""Whether the run fits into this node's memory, where it has no GPUs."""

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor.findings import ERROR, LEFT_OUT, OK, WARNING, Findings
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.model.platform import Platform
from megatron_oreal.model.shape import read_shape
from megatron_oreal.plan.host.fit import fit_of
from megatron_oreal.plan.host.need import Place


def check_memory(findings: Findings, config: TrainConfig | SftConfig, ranks: int | None, ranks_per_node: int) -> None:
    """The model can be used. `ranks`: of the job; None: as many as the layout wants, all here."""
    if not Platform.detect().is_cpu:
        findings.add(LEFT_OUT, "memory", "on GPUs it is for the planner to say", "megatron-oreal plan with the same overrides")
        return

    def places(parallel: ParallelConfig) -> Place:
        return Place(ranks, min(ranks_per_node, ranks)) if ranks else Place(parallel.ranks, parallel.ranks)

    fit = findings.try_out("memory", "change parallel.*", fit_of, config, read_shape(config.model.path), places)
    if fit is None:
        return
    if not fit.fits:
        findings.add(ERROR, "memory", f"the run {fit.line}", fit.advice)
    elif fit.need.total > fit.memory.free:
        findings.add(WARNING, "memory", f"the run {fit.line}, but {fit.free} are free now", "end what holds the rest, or memory runs out")
    else:
        findings.add(OK, "memory", f"the run {fit.line}")
