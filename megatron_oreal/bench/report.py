"""A bench for people, and for programs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_oreal.bench.beside import Prediction
from megatron_oreal.bench.measure import GATHER, STAGES, Measured
from megatron_oreal.devices import CPU, known_as
from megatron_oreal.errors import NotWritten
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import Architecture
from megatron_oreal.plan.tables import gib, row

FILE = "bench.json"


@dataclass(frozen=True)
class Bench:
    """What was measured, and what was planned of it."""

    config: Planned
    model: Architecture
    device: str
    measured: Measured
    prediction: Prediction

    @property
    def layout(self) -> dict[str, int | None]:
        parallel = self.config.parallel
        sizes = {"tp": parallel.tp, "pp": parallel.pp, "vpp": parallel.vpp, "cp": parallel.cp}
        return sizes | {"dp": parallel.data_parallel(self.config.plan.gpus)}

    @property
    def matmul(self) -> float:
        """FLOP/s, the mean of the ranks."""
        return fmean(self.measured.products)

    def stage(self, name: str) -> dict[str, float | None]:
        """Figures of one of STAGES; None: there is none."""
        seconds, flops, gpus = self.measured.seconds[name], self.measured.flops.get(name), self.config.plan.gpus
        planned = self.prediction.seconds.get(name)
        rate = flops / seconds / gpus if flops and seconds else None
        return {
            "seconds": seconds,
            "tokens_per_second_per_gpu": self.measured.tokens / seconds / gpus if seconds and name != GATHER else None,
            "flops": flops,
            "flops_per_second_per_gpu": rate,
            "of_matmul": rate and rate / self.matmul,
            "planned_seconds": planned,
            "planned_flops_per_second_per_gpu": flops / planned / gpus if flops and planned else None,
            "measured_over_planned": seconds / planned if planned else None,
        }

    def memory(self) -> list[dict[str, Any]]:
        """Of every rank; bytes."""
        rows = []
        for rank, one in enumerate(self.measured.memory):
            held, tensors = self.prediction.held[one.stage], self.prediction.tensors[one.stage]
            row = {"rank": rank, "stage": one.stage, "held": one.held, "planned_held": round(held), "held_over_planned": one.held / held}
            of_tensors = {"tensors": one.tensors, "planned_tensors": tensors and round(tensors)}
            rows.append(row | of_tensors | {"tensors_over_planned": one.tensors / tensors if one.tensors and tensors else None})
        return rows


def publish(bench: Bench, run_dir: Path) -> None:
    """Print it, and write it to run_dir.

    Raises:
        NotWritten: it could not be written.
    """
    print(as_text(bench), flush=True)
    try:
        (run_dir / FILE).write_text(json.dumps(as_json(bench), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise NotWritten(f"bench: {run_dir / FILE} could not be written ({type(error).__name__}: {error})") from error


def as_text(bench: Bench) -> str:
    """Tables."""
    blocks = (_head(bench), _stages(bench), _memory(bench), _notes(bench))
    return "\n\n".join("\n".join(block) for block in blocks)


def _head(bench: Bench) -> Iterator[str]:
    config, measured = bench.config, bench.measured
    layout = ", ".join(f"{name.upper()} {size}" for name, size in bench.layout.items() if size)
    size = f"{bench.prediction.parameters / 1e9:.2f} B parameters, random"
    yield f"{bench.model.source}: {size}; {layout} on {config.plan.gpus} x {bench.device}"
    yield measured.compute
    yield (
        f"a step: {measured.tokens:,} tokens of {measured.trajectories} trajectories, {config.learn.tokens_per_micro_batch:,} tokens a "
        f"micro-batch; medians of {config.bench_steps} steps"
    )
    slowest = min(measured.products)
    yield (
        f"matmul, all ranks at once: {bench.matmul / 1e12:.4g} TFLOP/s a rank, the slowest {slowest / 1e12:.4g} "
        f"(rank {measured.products.index(slowest)})"
    )


def _stages(bench: Bench) -> Iterator[str]:
    yield row("", ("seconds", "tokens/s/GPU", "TFLOP/s/GPU", "of matmul", "planned: s", "TFLOP/s/GPU", "measured/pl."))
    for name in STAGES:
        one = bench.stage(name)
        rates = (one["flops_per_second_per_gpu"], one["of_matmul"], one["planned_seconds"], one["planned_flops_per_second_per_gpu"])
        rate, share, planned, planned_rate = rates
        cells = [f"{one['seconds']:.3f}", _told(one["tokens_per_second_per_gpu"], ",.0f"), _told(rate, ".4g", 1e12), _told(share, ".1%")]
        cells += [_told(planned, ".3f"), _told(planned_rate, ".4g", 1e12), _told(one["measured_over_planned"], ".2f")]
        yield row(name.replace("_rm", " RM"), cells)


def _told(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else format(value / unit, form)


def _memory(bench: Bench) -> Iterator[str]:
    """The fullest rank of each pipeline stage."""
    yield row("GiB a rank", ("held", "planned", "measured/pl.", "tensors", "planned", "measured/pl."))
    ranks = bench.memory()
    for stage in range(len(bench.prediction.held)):
        one = max((rank for rank in ranks if rank["stage"] == stage), key=lambda rank: rank["held"])
        cells = [gib(one["held"]), gib(one["planned_held"]), f"{one['held_over_planned']:.2f}", "-", "-", "-"]
        if one["tensors"]:
            cells[3:] = [gib(one["tensors"]), gib(one["planned_tensors"]), f"{one['tensors_over_planned']:.2f}"]
        yield row(f"stage {stage}, rank {one['rank']}", cells)


def _notes(bench: Bench) -> Iterator[str]:
    yield "FLOPs are those that a step cannot do without: a backward pass counts twice, what is computed again and padding not at all"
    if bench.config.plan.gpu == CPU:
        yield "of a CPU the planner knows memory alone"
        return
    yield f"planned: operations as by {bench.prediction.prices}; of the gathering, with handing the weights over to engines"
    if known_as(bench.device) is None:
        yield f"note: the planner does not know this GPU, so this is its plan for plan.gpu={bench.config.plan.gpu}"


def as_json(bench: Bench) -> dict[str, Any]:
    """All figures: seconds, FLOP/s, bytes."""
    config, measured = bench.config, bench.measured
    return {
        "shape": bench.model.source,
        "parameters": bench.prediction.parameters,
        "device": bench.device,
        "gpus": config.plan.gpus,
        "gpus_per_host": config.plan.gpus_per_host,
        "planned_as": config.plan.gpu,
        "prices": bench.prediction.prices or None,
        "layout": bench.layout,
        "compute": measured.compute,
        "tokens_per_micro_batch": config.learn.tokens_per_micro_batch,
        "trajectories": measured.trajectories,
        "tokens": measured.tokens,
        "steps": config.bench_steps,
        "matmul": {"flops_per_second": bench.matmul, "ranks": measured.products},
        "stages": {name: bench.stage(name) for name in STAGES},
        "memory": bench.memory(),
    }
