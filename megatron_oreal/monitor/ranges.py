"""The stages of a run on the clock, and as ranges for profilers: of torch.profiler, and NVTX ranges (Nsight Systems) where CUDA is."""

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from megatron_oreal.model.platform import Platform


class StageRanges:
    """One stage follows another; this rank's seconds in each are added up. All in the thread that trains."""

    def __init__(self, platform: "Platform"):
        self._platform = platform
        self._stage, self._since = "", time.perf_counter()
        self._open: torch.profiler.record_function | None = None
        self._seconds: dict[str, float] = {}

    @property
    def stage(self) -> str:
        """The one that this rank is in; empty between stages."""
        return self._stage

    def enter(self, stage: str) -> None:
        """Leave the stage of before for this one."""
        self.leave()
        self._stage, self._since = stage, time.perf_counter()
        self._open = torch.profiler.record_function(stage)
        self._open.__enter__()
        if not self._platform.is_cpu:
            torch.cuda.nvtx.range_push(stage)

    def leave(self) -> None:
        """The stage is over, also on the GPU: what it asked for is computed, or its time would be counted as the next one's."""
        if self._open is None:
            return
        self._platform.wait()
        if not self._platform.is_cpu:
            torch.cuda.nvtx.range_pop()
        self._open.__exit__(None, None, None)
        self._seconds[self._stage] = self.seconds(self._stage)
        self._open, self._stage = None, ""

    def seconds(self, stage: str) -> float:
        """In this stage since the last `restart`."""
        return self._seconds.get(stage, 0.0) + (time.perf_counter() - self._since if stage == self._stage else 0.0)

    def restart(self) -> None:
        """From here on seconds count anew; a stage that is still open is left."""
        self.leave()
        self._seconds = {}
