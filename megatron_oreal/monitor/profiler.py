"""`profile=torch`: a trace of some steps, with the stages as ranges, and of the GPU's memory. A file a rank."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from megatron_oreal.monitor.config import ProfileConfig

if TYPE_CHECKING:
    from megatron_oreal.learn.parallel import Ranks

MEMORY_EVENTS = 200_000
"""Most allocations of a memory snapshot; the newest."""


class Profiler:
    """Traces profile.steps steps from profile.first on (where the run is beyond that already, from its next). Use as a context manager."""

    def __init__(self, config: ProfileConfig, run_dir: str | Path, ranks: "Ranks"):
        self._config, self._ranks, self._folder = config, ranks, Path(run_dir) / "profile"
        self._trace: profile | None = None  # while it is recorded
        self._first = self._done = 0  # the first step in it, and the step after its last

    def begin(self, step: int) -> None:
        """Step `step` begins, the one before it is over."""
        if self._trace and step == self._done:
            self._write()
        if self._config.kind == "torch" and not self._first and step >= self._config.first:
            self._start(step)

    def _start(self, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._first, self._done = step, step + self._config.steps
        gpu = [] if self._ranks.platform.is_cpu else [ProfilerActivity.CUDA]
        self._trace = profile(activities=[ProfilerActivity.CPU, *gpu])
        if gpu and self._config.memory:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._trace.start()

    def _write(self) -> None:
        """<run_dir>/profile/step-00003-rank-00000.json.gz, and .memory.pickle."""
        self._ranks.ranges.leave()
        trace, self._trace = self._trace, None
        trace.stop()
        name = self._folder / f"step-{self._first:05d}-rank-{self._ranks.placement.rank:05d}"
        trace.export_chrome_trace(f"{name}.json.gz")
        if not self._ranks.platform.is_cpu and self._config.memory:
            torch.cuda.memory._dump_snapshot(f"{name}.memory.pickle")
            torch.cuda.memory._record_memory_history(enabled=None)

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, kind, *_) -> None:
        """The trace is written where the run ends before its last step is over; not after an error, which may be the GPU's."""
        if self._trace and kind is None:
            self._write()
