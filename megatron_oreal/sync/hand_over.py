"""Deliver, rollout.sync=tensor: buckets to the engines on the ranks' own hosts, by handles of the ranks' memory.

Every rank beside an engine's TP rank has the bucket (stages.py) and makes a handle of it; one of them calls the engine with all handles.
"""

import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from threading import Lock
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing

from megatron_oreal.engines.calls import Background
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import NotWritten, ServerError
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.deliver import Delivery, Updates
from megatron_oreal.sync.gather import Bucket
from megatron_oreal.sync.stages import Packed, Part, Stages

BUFFERS = 2  # one is filled while one is handed over
_STRATEGY = Lock()  # torch's way of sharing is the whole process's, and two threads here change it


@dataclass(frozen=True)
class Gift:
    """An engine to which this rank hands over."""

    engine: Endpoint
    places: list[int]  # its TP ranks that open this rank's handles
    tp: int
    group: dist.ProcessGroup | None = None  # all ranks that hand over to it; None: this one alone

    @property
    def leads(self) -> bool:
        """Whether this rank calls the engine."""
        return 0 in self.places


class HandOver(Delivery):
    """Handles of this rank's memory: CUDA's where CUDA is (CUDA IPC), on CPU of shared memory.

    The payload is in SGLang's form, a pickle that SGLang reads with a list of allowed types.
    """

    def __init__(self, engines: Sequence[Endpoint], gifts: Sequence[Gift], config: RolloutConfig, device: torch.device):
        """`engines`: all that take part in the update, `gifts`: those that this rank hands over to."""
        self._device, self._timeout_s = device, config.sync_timeout_s
        self._updates = Updates(engines, config.sync_timeout_s)
        self._stages = Stages(device)
        self._gifts, self._failed = list(gifts), {}
        self._free = _buffers()

    def begin(self) -> None:
        self._updates.begin()

    def parcels(self, buckets: Iterable[Bucket]) -> Iterator[tuple[Packed, Bucket]]:
        """All stages' buckets, some of each in a parcel, and beside them the tensors of this stage."""
        for round in self._stages.rounds(buckets):
            memory = self._room(round.starts[-1])
            self._stages.fill(memory, round)
            yield round.packed(memory), round.own

    @property
    def shared_by(self) -> int:
        return self._stages.count

    def _room(self, size: int) -> torch.Tensor:
        """[size or more] bytes that can be handed over, and that no engine reads any more.

        An engine has copied what it was given when it answers: CUDA IPC waits for its copies as it lets go of the sender's memory.
        """
        memory = self._free.get()
        if memory.nbytes >= size:
            return memory
        if self._device.type == "cpu":
            return _shared(size)
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def send(self, parcel: Packed, version: int) -> None:
        """Returns when the engines have copied what it holds. One that fails is passed over from then on, see finish()."""
        try:
            handles = [self._handles(gift, parcel) for gift in self._gifts]
            calls = [Background(partial(self._call, gift, given, version)) for gift, given in zip(self._gifts, handles, strict=True)]
            for gift, call in zip(self._gifts, calls, strict=True):
                call.join()
                self._note(gift, call)
            self._gifts = [gift for gift in self._gifts if gift.engine not in self._failed]
        finally:
            self._free.put(parcel.memory)

    def _handles(self, gift: Gift, parcel: Packed) -> list[str]:
        """Of all ranks that hand over to the engine, in the order of its TP ranks."""
        mine = {place: _handle(parcel, self._device) for place in gift.places}  # each can be opened once
        given = mine if gift.group is None else _gathered(mine, gift.group)
        return [given[place] for place in range(gift.tp)]

    def _call(self, gift: Gift, handles: list[str], version: int) -> None:
        if gift.leads:
            body = {
                "serialized_named_tensors": handles,
                "load_format": "flattened_bucket",
                "flush_cache": False,
                "weight_version": str(version),
            }
            gift.engine.post("/update_weights_from_tensor", body, self._timeout_s)

    def _note(self, gift: Gift, call: Background) -> None:
        """Whether the engine has failed is known to all that hand over to it."""
        failure = None
        try:
            call.result()
        except ServerError as error:
            failure = error
        failed = torch.tensor([int(failure is not None)])
        if gift.group is not None:
            dist.all_reduce(failed, group=gift.group)
        if failed.item():
            self._failed[gift.engine] = failure

    def finish(self, version: int) -> None:
        """All parcels have been handed over. Raises ServerError where an engine that this rank calls has failed."""
        if self._device.type == "cuda":
            self._free = _buffers()  # training wants the memory
            torch.cuda.ipc_collect()
        failures, self._failed = [error for error in self._failed.values() if error], {}
        if failures:
            raise failures[0]

    def end(self, version: int) -> None:
        self._updates.end()

    def leave(self) -> None:
        """Gives the memory back."""
        self._free = _buffers()


def _buffers() -> SimpleQueue:
    """Still without memory. On CPU they keep what they get: making its pages costs more than filling them."""
    free = SimpleQueue()
    for _ in range(BUFFERS):
        free.put(torch.empty(0, dtype=torch.uint8))
    return free


def _shared(size: int) -> torch.Tensor:
    """Bytes in shared memory of the CPU. Raises NotWritten where it has no room for them."""
    try:
        with _shared_by_name():
            return torch.empty(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        text = f"rollout.sync=tensor: {size >> 20} MiB of shared memory for a bucket are not to be had ({error}); enlarge /dev/shm, or use"
        raise NotWritten(f"{text} rollout.sync=distributed") from error


def _handle(parcel: Packed, device: torch.device) -> str:
    """What one rank of an engine opens a bucket with."""
    if device.type == "cuda":
        from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

        monkey_patch_torch_reductions()  # a device is named by its UUID: its number differs from process to process
    bucket = {"flattened_tensor": parcel.memory, "metadata": [_metadata(part) for part in parcel.parts]}
    with _shared_by_name():
        return b64encode(ForkingPickler.dumps(bucket)).decode()


def _metadata(part: Part) -> SimpleNamespace:
    """As SGLang's FlattenedTensorMetadata, without importing SGLang."""
    place = {"start_idx": part.start, "end_idx": part.end, "numel": part.end - part.start}
    return SimpleNamespace(name=part.name, shape=torch.Size(part.shape), dtype=getattr(torch, part.dtype), **place)


def _gathered(mine: Mapping[int, str], group: dist.ProcessGroup) -> dict[int, str]:
    """Everybody's entries."""
    message = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(group.size())]
    dist.all_gather(sizes, torch.tensor([len(message)]), group=group)
    longest = max(int(size) for size in sizes)
    texts = [torch.zeros(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(texts, torch.nn.functional.pad(message, (0, longest - len(message))), group=group)
    found = [json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)]
    return {int(place): handle for entries in found for place, handle in entries.items()}


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Shared memory of the CPU has a name that any process can open; torch's default is a descriptor, for which the engine would ask us.

    torch starts a process of its own for that, which stays as long as an engine does: it must not hold our stderr open.
    """
    with _STRATEGY:
        strategy = torch.multiprocessing.get_sharing_strategy()
        torch.multiprocessing.set_sharing_strategy("file_system")
        inherited = os.get_inheritable(2)
        os.set_inheritable(2, False)
        try:
            yield
        finally:
            os.set_inheritable(2, inherited)
            torch.multiprocessing.set_sharing_strategy(strategy)
