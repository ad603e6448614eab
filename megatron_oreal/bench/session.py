"""A bench from its ranks' meeting to its report."""

from contextlib import ExitStack
from dataclasses import replace
from math import gcd
from pathlib import Path

import torch

from megatron_oreal.bench import report
from megatron_oreal.bench.beside import predict
from megatron_oreal.bench.measure import measure
from megatron_oreal.bench.stand_in import start_of
from megatron_oreal.devices import CPU, known_as
from megatron_oreal.launcher import Placement
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.run_lock import NAME, alone
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import Architecture


def bench(config: Planned, model: Architecture) -> None:
    """Collective over all ranks of the job; see command.run."""
    run_dir, start = Path(config.run_dir), start_of(model, Platform.detect(Placement.detect().local_rank).device)
    with Ranks(config.parallel, config.seed, run_dir / "stacks") as ranks, ExitStack() as stack:
        if ranks.conducts:
            stack.enter_context(alone(f"run_dir={config.run_dir}", run_dir / NAME))
        device = "CPU" if ranks.platform.is_cpu else torch.cuda.get_device_name(ranks.platform.device)
        planned = of_this_job(config, ranks, device)
        prediction = predict(planned, model) if ranks.conducts else None
        measured = measure(planned, start, ranks)
        if ranks.conducts:
            report.publish(report.Bench(planned, model, device, measured, prediction), run_dir)


def of_this_job(config: Planned, ranks: Ranks, device: str) -> Planned:
    """With the GPUs that there are. One that the planner does not know is planned as plan.gpu. Collective."""
    world, (hosts, _) = ranks.placement.world_size, ranks.hosts()
    gpu = CPU if ranks.platform.is_cpu else known_as(device) or config.plan.gpu
    here = gcd(world, world // hosts)  # hosts that have unequally many are planned as smaller ones
    return replace(config, plan=replace(config.plan, gpus=world, gpus_per_host=here, gpu=gpu))
