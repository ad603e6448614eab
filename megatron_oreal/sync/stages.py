"""Carry between the pipeline stages of one replica: each rank of it gets the whole tensors of all stages, bucket by bucket.

A stage's TP ranks all have its tensors after they were gathered. Each sends its share of the bytes to its counterparts in the other stages,
which put the shares together over TP: every network card of a host carries 1/tp of what the host lacks, and nothing travels twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from megatron_oreal.sync.gather import Bucket

ALIGNED = 16
"""Bytes: a tensor begins where any number type may."""


@dataclass(frozen=True)
class Part:
    """A tensor's place in a bucket's memory."""

    name: str
    dtype: str  # torch's name
    shape: list[int]
    start: int  # bytes
    end: int


@dataclass(frozen=True)
class Packed:
    """A bucket in one piece of memory."""

    memory: Tensor  # [bytes] uint8, more than all parts take
    parts: list[Part]


def placed(bucket: Bucket) -> list[Part]:
    """One after another."""
    parts, start = [], 0
    for name, tensor in bucket:
        parts.append(Part(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), start, start + tensor.nbytes))
        start += -(-tensor.nbytes // ALIGNED) * ALIGNED
    return parts


def fill(memory: Tensor, parts: Sequence[Part], bucket: Bucket) -> None:
    """Copy the tensors to their places; nothing where they are another stage's."""
    for part, (_, tensor) in zip(parts, bucket, strict=bool(bucket)):
        memory[part.start : part.end].view(tensor.dtype).view(tensor.shape).copy_(tensor.detach())


class Stages:
    """This rank's way to the other stages of its replica. All ranks of a replica that takes part do the same at the same time."""

    def __init__(self, device: torch.device):
        self._device, alone = device, not dist.is_initialized()
        self._stage = 0 if alone else parallel_state.get_pipeline_model_parallel_rank()
        self._line = None if alone else parallel_state.get_pipeline_model_parallel_group()
        self._stages = self._line.size() if self._line else 1
        self._tp_group = None if alone else parallel_state.get_tensor_model_parallel_group()
        self._tp = self._tp_group.size() if self._tp_group else 1

    def room(self, parts: Sequence[Part]) -> int:
        """Bytes of memory that a bucket is carried in: TP ranks carry equal shares."""
        return self._share(parts) * self._tp

    def _share(self, parts: Sequence[Part]) -> int:
        return -(-parts[-1].end // (self._tp * ALIGNED)) * ALIGNED

    def layouts(self, own: Iterable[Bucket]) -> Iterator[tuple[list[Part], Bucket, int]]:
        """Of all buckets of all stages in turn: (its layout, its tensors where the stage is ours, the stage)."""
        for stage in range(self._stages):
            if stage == self._stage:
                for bucket in own:
                    yield self._told(placed(bucket), stage), bucket, stage
                self._told([], stage)
            else:
                while parts := self._told([], stage):
                    yield parts, (), stage

    def _told(self, parts: list[Part], stage: int) -> list[Part]:
        """What the stage says; empty: it has no more."""
        if self._stages == 1:
            return parts
        message = torch.frombuffer(bytearray(msgspec.msgpack.encode(parts)), dtype=torch.uint8).to(self._device)
        size = torch.tensor([len(message)], device=self._device)
        speaker = dist.get_global_rank(self._line, stage)
        dist.broadcast(size, src=speaker, group=self._line)
        if stage != self._stage:
            message = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        dist.broadcast(message, src=speaker, group=self._line)
        return parts if stage == self._stage else msgspec.msgpack.decode(message.cpu().numpy().tobytes(), type=list[Part])

    def carry(self, memory: Tensor, parts: Sequence[Part], stage: int) -> None:
        """From the stage that has filled it to the same memory on the others."""
        if self._stages == 1:
            return
        shares = memory[: self.room(parts)].view(self._tp, -1)
        own = shares[dist.get_rank(self._tp_group)]
        dist.broadcast(own, src=dist.get_global_rank(self._line, stage), group=self._line)
        if stage != self._stage and self._tp > 1:
            dist.all_gather(list(shares.unbind()), own.clone(), group=self._tp_group)
