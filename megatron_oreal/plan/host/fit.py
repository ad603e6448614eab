"""Whether what is asked for fits into the memory of a machine without GPUs, and what would."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig
from megatron_oreal.devices import GIB
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.machine import Memory
from megatron_oreal.model.shape import Shape
from megatron_oreal.plan.host.need import Need, Place, need_of_run, need_of_sampling, need_of_sft
from megatron_oreal.plan.host.remedy import remedy

Config = TrainConfig | SftConfig | EvaluateConfig | PassrateConfig
Places = Callable[[ParallelConfig], Place]
"""Where the ranks of a layout run."""


@dataclass(frozen=True)
class Fit:
    """What is needed, and what there is."""

    need: Need
    memory: Memory
    suggestion: tuple[str, int] | None  # overrides with which it would fit, and the bytes that are needed then

    @property
    def fits(self) -> bool:
        return self.need.total <= self.memory.total

    @property
    def line(self) -> str:
        """What is needed, and what there is."""
        return f"needs {self.need.total / GIB:.1f} GiB ({_by_whom(self.need)}), and there are {self.memory.total / GIB:.1f}"

    @property
    def free(self) -> str:
        """GiB that nobody holds."""
        return f"{self.memory.free / GIB:.1f}"

    @property
    def advice(self) -> str:
        """What would fit, where it does not."""
        if self.suggestion is None:
            return "nothing smaller was found that fits: take a machine with more memory, or a smaller model"
        overrides, total = self.suggestion
        return f"it would fit with {overrides} ({total / GIB:.1f} GiB)"


def fit_of(config: Config, hf: Shape, places: Places) -> Fit:
    """Whether it fits this machine, or into memory_gib."""
    memory = Memory.of_this_machine()
    if config.memory_gib is not None:
        memory = Memory(round(config.memory_gib * GIB), round(config.memory_gib * GIB))
    need = partial(_need, hf=hf, places=places, free=memory.free)
    found = need(config)
    return Fit(found, memory, None if found.total <= memory.total else remedy(config, need, memory.total))


def _need(config: Config, hf: Shape, places: Places, free: int) -> Need:
    if isinstance(config, EvaluateConfig | PassrateConfig):
        return need_of_sampling(config, hf, free)
    place = places(config.parallel)
    return (need_of_sft if isinstance(config, SftConfig) else need_of_run)(config, hf, place, free)


def _by_whom(need: Need) -> str:
    """2 ranks of 9.3, engine 7.0, ... at the fullest moment."""
    trains = need.training >= need.sampling
    parts = [("rank", rank.training if trains else rank.resting) for rank in need.ranks]
    parts += [("engine", engine.resting if trains else engine.sampling) for engine in need.engines]
    words = []
    for (name, nbytes), count in Counter((name, f"{nbytes / GIB:.1f}") for name, nbytes in parts).items():
        words.append(f"{count} {name}s of {nbytes}" if count > 1 else f"{name} {nbytes}")
    rest = need.total - sum(nbytes for _, nbytes in parts)
    return f"while {'training' if trains else 'sampling'}: {', '.join(words)}, else {rest / GIB:.1f}"
