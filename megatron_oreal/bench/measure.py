"""What training steps take, by the clock and the allocator of every rank."""

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from megatron_oreal.bench.matmul import matmul_flops
from megatron_oreal.bench.stand_in import trajectories
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, Start
from megatron_oreal.model import hf_weights
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.meter import TRAINING
from megatron_oreal.plan.config import Planned
from megatron_oreal.trajectory import Sample, TrainBatch

STEP, GATHER = "step", "gather"
STAGES = (*TRAINING, STEP, GATHER)
"""A step is the sum of its stages and of packing. The gathering is what comes of a sync before anything is sent."""


@dataclass(frozen=True)
class RankMemory:
    """The most that a rank has held in any step; bytes."""

    stage: int  # of the pipeline
    held: int  # of the GPU, by its process; on a CPU by the process
    tensors: int | None  # of it, what torch's allocator had given out; None on a CPU


@dataclass(frozen=True)
class Measured:
    """All ranks together; the same on each."""

    seconds: dict[str, float]  # of STAGES: the mean over the ranks (of GATHER the slowest), the median over the steps
    flops: dict[str, float]  # of STAGES as far as they are matrix products: what a step cannot do without
    products: list[float]  # FLOP/s of each rank's matmul, all at once
    memory: list[RankMemory]  # of each rank
    trajectories: int
    tokens: int  # of a step
    compute: str  # with what was computed


def measure(config: Planned, start: Start, ranks: Ranks) -> Measured:
    """A step to warm up, and config.bench_steps that count. Collective."""
    ranks.enter("matmul")
    ranks.barrier()
    products = ranks.rows(torch.tensor([[matmul_flops(ranks.platform.device)]], dtype=torch.float64))
    ranks.enter("load")
    learner, samples = Learner(config, ranks, start), trajectories(config, start.hf.vocab_size)
    learner.rest_between_turns()
    ranks.platform.release_cached_memory()
    _forget_peak(ranks.platform)
    rows = [_step(learner, samples, number) for number in range(1, config.bench_steps + 2)]
    flops = learner.cost.of_stages(samples, policy=True)
    return Measured(
        {stage: statistics.median(row[stage] for row in rows[1:]) for stage in STAGES},
        {stage: count for stage, count in (flops | {STEP: sum(flops.values())}).items() if count},
        products[:, 0].tolist(),
        _memory(ranks),
        len(samples),
        sum(sample.length for sample in samples),
        learner.models.compute.line().removeprefix("compute: "),
    )


def _step(learner: Learner, samples: Sequence[Sample], number: int) -> dict[str, float]:
    """Seconds of STAGES."""
    ranks, clock = learner.ranks, learner.ranks.ranges
    ranks.barrier()
    clock.restart()
    started = time.perf_counter()
    learner.train(TrainBatch(list(samples)), number)
    ranks.enter("optimizer")
    policy = learner.policy.gpt  # what its update has left to be gathered (learn.overlap_param_gather) is its own
    clock.leave()
    mine = [*(clock.seconds(stage) for stage in TRAINING), time.perf_counter() - started]
    means = ranks.total(torch.tensor(mine, dtype=torch.float64)) / ranks.placement.world_size
    ranks.enter(GATHER)
    _gather(policy, learner)
    clock.leave()
    slowest = ranks.largest(torch.tensor([clock.seconds(GATHER)], dtype=torch.float64))
    row = dict(zip(STAGES, [*means.tolist(), *slowest.tolist()], strict=True))
    if ranks.conducts:
        print(f"step {number}: {row[STEP]:.2f} s{', to warm up' * (number == 1)}", flush=True)
    return row


def _gather(policy: Sequence[GPTModel], learner: Learner) -> None:
    """Its tensors whole, one by one, as sync.publisher has them sent."""
    if learner.ranks.is_first_replica:
        for _ in hf_weights.export(policy, learner.models.dims):
            pass


def _forget_peak(platform: Platform) -> None:
    """What building the models held for a moment is not the step's. A CPU's processes are asked for their most since they began."""
    if not platform.is_cpu:
        torch.cuda.reset_peak_memory_stats(platform.device)


def _memory(ranks: Ranks) -> list[RankMemory]:
    """Of all ranks. Collective."""
    device, stage = ranks.platform.device, parallel_state.get_pipeline_model_parallel_rank()
    mine = [stage, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0]
    if not ranks.platform.is_cpu:
        free, total = torch.cuda.mem_get_info(device)
        since_returned = torch.cuda.max_memory_reserved(device) - torch.cuda.memory_reserved(device)
        mine = [stage, total - free + since_returned, torch.cuda.max_memory_allocated(device)]
    return [RankMemory(stage, held, tensors or None) for stage, held, tensors in ranks.rows(torch.tensor([mine])).tolist()]
