"""What a step costs: seconds of its stages, tokens a second, share of the GPUs' peak, memory. Over all ranks."""

import resource
from typing import TYPE_CHECKING

import torch

from megatron_oreal.devices import GIB, bf16_peak
from megatron_oreal.trajectory import TrainBatch

if TYPE_CHECKING:
    from megatron_oreal.learn.flops import StepCost
    from megatron_oreal.learn.parallel import Ranks

TRAINING = ("token_rm", "reference", "policy", "optimizer")
STAGES = (*TRAINING, "evaluate")
"""Stages whose seconds are the mean over the ranks. Rollout, sync and checkpoint say themselves how long all waited for them."""


class Meter:
    """Reads the clocks of all ranks once a step. Both methods are collective."""

    def __init__(self, ranks: "Ranks", cost: "StepCost", dtype: str):
        """`dtype` of the models: a share of the peak is claimed of bfloat16 alone, for which the peak is stated, on a GPU that is known."""
        self._ranks, self._cost = ranks, cost
        on_gpu = not ranks.platform.is_cpu
        self._peak = bf16_peak(torch.cuda.get_device_name(ranks.platform.device)) if on_gpu and dtype == "bfloat16" else None

    def begin(self) -> None:
        """A step begins: what was before it is not counted."""
        self._ranks.ranges.restart()
        if not self._ranks.platform.is_cpu:
            torch.cuda.reset_peak_memory_stats(self._ranks.platform.device)

    def end(self, batch: TrainBatch, policy: bool) -> dict[str, float]:
        """Of the step since `begin`, the same on every rank. `policy`: it was trained on the batch, not the token RM alone."""
        seconds = self._stage_seconds()
        metrics = {f"time/{stage}": spent for stage, spent in seconds.items()} | self._memory()
        training = sum(seconds[stage] for stage in TRAINING)
        if not batch.samples or not training:
            return metrics
        world = self._ranks.placement.world_size
        tokens = sum(sample.length for sample in batch.samples) / training
        metrics |= {"perf/tokens_per_second": tokens, "perf/tokens_per_second_per_gpu": tokens / world}
        if self._peak:
            metrics["perf/mfu"] = self._cost.flops(batch.samples, policy) / training / world / self._peak
        return metrics

    def _stage_seconds(self) -> dict[str, float]:
        """Mean over the ranks."""
        mine = torch.tensor([self._ranks.ranges.seconds(stage) for stage in STAGES], dtype=torch.float64)
        means = (self._ranks.total(mine) / self._ranks.placement.world_size).tolist()
        return dict(zip(STAGES, means, strict=True))

    def _memory(self) -> dict[str, float]:
        """GiB of the rank that needs most: on GPUs what torch's allocator gave out, and holds, at the step's peak; else of the process."""
        if self._ranks.platform.is_cpu:
            return {"memory/peak_rss_gib": self._most(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}
        device = self._ranks.platform.device
        return {
            "memory/max_allocated_gib": self._most(torch.cuda.max_memory_allocated(device)),
            "memory/max_reserved_gib": self._most(torch.cuda.max_memory_reserved(device)),
        }

    def _most(self, nbytes: int) -> float:
        return float(self._ranks.largest(torch.tensor([nbytes / GIB], dtype=torch.float64)))
