"""What a bench trains, and on what: random weights of a model's sizes, and trajectories of the lengths that the planner assumes."""

import math
import zlib
from collections.abc import Mapping

import torch
from megatron.core import parallel_state
from torch import Tensor
from transformers import AutoConfig

from megatron_oreal.learn.step import Start
from megatron_oreal.model.blueprint import hf_shapes
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import Architecture
from megatron_oreal.plan.timing import trained_lengths
from megatron_oreal.trajectory import RIGHT, WRONG, Sample

STD = 0.02


def start_of(model: Architecture, device: torch.device) -> Start:
    """Random weights, made on the device; the same for policy and reference, and on all data-parallel ranks.

    To be called before the ranks meet: the names and shapes are Megatron's, which is asked under process groups of its own.
    """
    fields = dict(model.fields)
    hf = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return Start(hf, _RandomTensors(hf_shapes(hf, "policy"), device))


class _RandomTensors(Mapping):
    """Tensors by their Hugging Face names, as slices that are made when indexed: see hf_weights.TensorSource."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: torch.device):
        self._shapes, self._device = shapes, device

    def __getitem__(self, name: str) -> "_Slice":
        return _Slice(name, self._shapes[name], self._device)

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class _Slice:
    """A tensor of which each tensor-parallel rank has other numbers, but for norms and biases."""

    def __init__(self, name: str, shape: tuple[int, ...], device: torch.device):
        self._name, self.shape, self._device = name, shape, device

    def __getitem__(self, index) -> Tensor:
        wanted = torch.empty(self.shape, device="meta")[index]
        if len(self.shape) == 1:
            return torch.full(wanted.shape, float("norm" in self._name), device=self._device)
        rank = parallel_state.get_tensor_model_parallel_rank()
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(f"{self._name} {rank}".encode()))
        return torch.empty(wanted.shape, device=self._device).normal_(std=STD, generator=generator)


def trajectories(config: Planned, vocab_size: int) -> list[Sample]:
    """Of one step: random tokens, right and wrong in turn; the same on every rank."""
    prompt, samples = config.plan.lengths.prompt, []
    generator = torch.Generator().manual_seed(config.seed)
    for number, length in enumerate(trained_lengths(config)):
        ids = torch.randint(vocab_size, (length,), generator=generator).tolist()
        reward = WRONG if number % 2 else RIGHT
        logprobs = [-math.log(vocab_size)] * (length - prompt)
        samples.append(Sample(f"q{number // 2}", ids[:prompt], ids[prompt:], reward, reward * 0.5, 0.5, 0, logprobs))
    return samples
