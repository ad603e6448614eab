"""Deliver, rollout.sync=tensor: tensors to engines on this host by handles of the sender's memory."""

import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler

import torch
import torch.multiprocessing

from megatron_oreal.engines.calls import post_all
from megatron_oreal.engines.endpoint import Endpoint, is_on_this_host
from megatron_oreal.errors import NotWritten
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.deliver import Updates
from megatron_oreal.sync.gather import Bucket


class HandOver:
    """Tensors to engines on this host by handles of the sender's memory: CUDA's where CUDA is (CUDA IPC), on CPU of shared memory.

    The payload is in SGLang's form, a pickle that SGLang reads with a list of allowed types.
    """

    def __init__(self, engines: Sequence[Endpoint], sizes: Sequence[int], config: RolloutConfig, device: torch.device):
        """Raises ValueError where an engine runs on another host."""
        self._engines, self._sizes, self._device, self._timeout_s = engines, sizes, device, config.sync_timeout_s
        self._updates = Updates(engines, config.sync_timeout_s)
        self._flat = torch.empty(0, dtype=torch.uint8)  # on CPU: kept from bucket to bucket, making its pages costs more than filling them
        for engine in engines:
            if not is_on_this_host(engine.url, config.sync_timeout_s):
                raise ValueError(f"rollout.sync=tensor needs engines on the sender's host, {engine.url} is not: use distributed")

    def begin(self) -> None:
        self._updates.begin()

    def send(self, bucket: Bucket, version: int) -> None:
        """Returns when the engines have copied what it holds."""
        views = self._placed(bucket)
        bodies = [
            {
                "serialized_named_tensors": [_handles(views) for _ in range(size)],  # each can be opened once
                "flush_cache": False,
                "weight_version": str(version),
            }
            for size in self._sizes
        ]
        post_all(self._engines, "/update_weights_from_tensor", self._timeout_s, bodies)

    def _placed(self, bucket: Bucket) -> Bucket:
        """The same tensors as views of one piece of memory that can be handed over."""
        size = sum(t.nbytes for _, t in bucket)
        if self._device.type == "cuda":
            from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

            monkey_patch_torch_reductions()  # a device is named by its UUID: its number differs from process to process
            flat = torch.empty(size, dtype=torch.uint8, device=self._device)
        else:
            if self._flat.nbytes < size:
                self._flat = _shared(size)
            flat = self._flat
        views, start = [], 0
        for name, t in bucket:
            views.append((name, flat[start : start + t.nbytes].view(t.dtype).view(t.shape)))
            views[-1][1].copy_(t.detach())
            start += t.nbytes
        return views

    def end(self, version: int) -> None:
        self._updates.end()

    def leave(self) -> None:
        """Gives the memory back."""
        self._flat = torch.empty(0, dtype=torch.uint8)


def _shared(size: int) -> torch.Tensor:
    """Bytes in shared memory of the CPU. Raises NotWritten where it has no room for them."""
    try:
        with _shared_by_name():
            return torch.empty(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        text = f"rollout.sync=tensor: {size >> 20} MiB of shared memory for a bucket are not to be had ({error}); enlarge /dev/shm, or use"
        raise NotWritten(f"{text} rollout.sync=distributed") from error


def _handles(views: Bucket) -> str:
    """What one rank of an engine opens them with."""
    with _shared_by_name():
        return b64encode(ForkingPickler.dumps(views)).decode()


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Shared memory of the CPU has a name that any process can open; torch's default is a descriptor, for which the engine would ask us.

    torch starts a process of its own for that, which stays as long as an engine does: it must not hold our stderr open.
    """
    strategy = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    inherited = os.get_inheritable(2)
    os.set_inheritable(2, False)
    try:
        yield
    finally:
        os.set_inheritable(2, inherited)
        torch.multiprocessing.set_sharing_strategy(strategy)
