"""What bench_step.py measures, each implementation in a process of its own: seconds of the stages of an OREAL step, peak memory, losses.

Not called by hand: bench_step.py writes the model's folder, calls `step_measure WAY FOLDER ASKED [TRACE]`, and reads the line that is
printed last.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from megatron_oreal.bench.matmul import matmul_flops
from megatron_oreal.config import TrainConfig, load
from megatron_oreal.learn.packing import partition
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.monitor.logs import quiet_libraries
from megatron_oreal.monitor.ranges import StageRanges
from megatron_oreal.oreal import reference
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.trajectory import Sample, TrainBatch
from tools.plain_step import sharded_models
from tools.step_figures import STAGES, Asked, Measured


def settings(folder: Path, asked: Asked) -> TrainConfig:
    """The configuration of a run that trains everything from its first step, at rates that a few steps show."""
    overrides = {
        "model.path": folder,
        "model.dtype": asked.dtype,
        "data.train": "unused",
        "compute.recompute": asked.recompute,
        "policy.freeze_steps": 0,
        "policy.optimizer.lr": 1e-4,
        "token_rm.optimizer.lr": 1e-3,
        "learn.tokens_per_micro_batch": asked.tokens,
        "rollout.max_total_tokens": asked.tokens,
        "rollout.max_new_tokens": asked.tokens - 1,
    }
    return load(TrainConfig, "train", [f"{name}={value}" for name, value in overrides.items()])


def measure_ours(config: TrainConfig, asked: Asked, trace: Path | None) -> Measured:
    """Warm-up, steps, and one more under the profiler where a folder for its trace is given."""
    with Ranks(config.parallel, config.seed) as ranks:
        learner, device, samples = Learner(config, ranks), ranks.platform.device, asked.samples
        rows = []
        _forget_peak(device)
        for number in range(1, asked.warm_up + asked.steps + 1):
            ranks.ranges.restart()
            watch = Stopwatch(device)
            metrics = learner.train(TrainBatch(samples), number).metrics
            ranks.ranges.leave()
            watch.lap("step")
            rows.append(_stages(ranks.ranges, watch.seconds["step"]))
        packed = partition([s.length for s in samples], 1, asked.tokens, learner.models.cost)[0]
        measured = _measured(device, rows[asked.warm_up :], metrics, sum(map(bool, packed)))
        if trace:
            profile(lambda: learner.train(TrainBatch(samples), number + 1), trace, device)
        return replace(measured, ceiling=matmul_flops(device))


def _stages(ranges: StageRanges, step: float) -> dict[str, float]:
    """Seconds of STAGES, from the clocks of the step itself."""
    row = {stage: ranges.seconds(stage) for stage in STAGES if stage != "else"}
    return row | {"else": step - sum(row.values())}


def measure_plain(config: TrainConfig, asked: Asked, _: Path | None) -> Measured:
    """The same steps by the reading version under FSDP."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    models, rows, samples = sharded_models(config, device), [], asked.samples
    _forget_peak(device)
    for number in range(1, asked.warm_up + asked.steps + 1):
        watch = Stopwatch(device)
        seconds, losses = _plain_step(models, samples, config.objective, number, device)
        watch.lap("step")
        rows.append(seconds | {"else": watch.seconds["step"] - sum(seconds.values())})
    return _measured(device, rows[asked.warm_up :], losses, len(samples))


def _plain_step(models: reference.Models, samples: Sequence[Sample], objective: Objective, number: int, device: torch.device):
    """reference.update by the watch: seconds of STAGES but `else`; losses and gradient norms, named as in metrics.jsonl."""
    watch, losses = Stopwatch(device), {}
    losses["loss/token_rm"], weights = reference.token_rm_backward(models.token_rm.model, samples, objective)
    watch.lap("token_rm")
    losses["grad_norm/token_rm"] = models.token_rm.update(number)
    watch.lap("optimizer")
    with torch.no_grad():
        logprobs = [reference.response_logprobs(models.reference, s) for s in samples]
    watch.lap("reference")
    losses |= reference.policy_backward(models.policy.model, samples, weights, logprobs, objective)
    watch.lap("policy")
    losses["grad_norm/policy"] = models.policy.update(number)
    watch.lap("optimizer")
    return watch.seconds, losses


class Stopwatch:
    """Seconds between laps, with all that a GPU was given to do by then done; laps of one name add up."""

    def __init__(self, device: torch.device):
        self._device, self.seconds = device, {}
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _forget_peak(device: torch.device) -> None:
    """What building the models held for a moment is not the step's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _measured(device: torch.device, rows: list[dict[str, float]], losses: dict[str, float], micro_batches: int) -> Measured:
    cuda = device.type == "cuda"
    medians = {stage: statistics.median(row[stage] for row in rows) for stage in STAGES}
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return Measured(torch.cuda.get_device_name() if cuda else "CPU", medians, micro_batches, peak, losses)


def profile(step: Callable, folder: Path, device: torch.device) -> None:
    """One step's trace into `folder`, and its dearest kernels on stderr."""
    cuda = device.type == "cuda"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    ) as recorded:
        step()
    recorded.export_chrome_trace(str(folder / "step.json.gz"))
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    print(recorded.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=70), file=sys.stderr, flush=True)


WAYS = {"ours": measure_ours, "plain": measure_plain}


def main() -> None:
    way, folder, asked, *trace = sys.argv[1:]
    quiet_libraries()
    told = Asked(**json.loads(asked))
    print(json.dumps(asdict(WAYS[way](settings(Path(folder), told), told, Path(trace[0]) if trace else None))))


if __name__ == "__main__":
    main()
