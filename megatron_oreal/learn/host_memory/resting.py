"""Memory that a model needs in its turn alone (compute.offload): given up meanwhile, and taken back with the same numbers in it.

Tensors stay what they are, also those that share memory with others: it is their storages that are emptied. Gradients, which are made anew
in each step, are only freed; what has to be kept is copied to host memory, pinned where there is a GPU. On a CPU, where that would be the
same memory again, it goes to a file without a name, whose pages the kernel keeps as long as nobody else needs the room.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn.host_memory.pinned import pinned
from megatron_oreal.model.platform import Platform

ALIGNED = 64
"""Bytes at which each storage's copy begins: any number type can be viewed there."""


def storages(tensors: Iterable[Tensor], but: Iterable[Tensor] = ()) -> list[UntypedStorage]:
    """Each once, without those that `but` lie in; `_cdata` is the same for all that share one, also while it is empty."""
    seen = {tensor.untyped_storage()._cdata for tensor in but}
    found = []
    for storage in (tensor.untyped_storage() for tensor in tensors):
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            found.append(storage)
    return found


class Resting:
    """The memory of one model, awake to begin with."""

    def __init__(self, gradients: Sequence[UntypedStorage], kept: Sequence[UntypedStorage], platform: Platform, folder: Path):
        """`gradients` are freed, and hold anything when they are back; `kept` comes back as it was. `folder`: for the file, on a CPU."""
        self._platform, self._folder = platform, folder
        self._sizes = {storage._cdata: storage.nbytes() for storage in (*gradients, *kept)}
        self._gradients, self._kept = list(gradients), list(kept)
        self._starts, self.bytes = {}, 0
        for storage in kept:
            self._starts[storage._cdata] = self.bytes
            self.bytes += -(-storage.nbytes() // ALIGNED) * ALIGNED
        self._host: _HostMemory | None = None
        self.awake = True

    def rest(self, changed: bool = True) -> None:
        """`changed`: since it rested last; a frozen model's copy stays good. Raises NotWritten where there is no room for the copy."""
        if not self.awake:
            return
        if self._host is None or changed:
            self._host = self._host or _HostMemory(self.bytes, self._platform, self._folder)
            for storage in self._kept:
                self._copy_of(storage).copy_(_all_of(storage, self._platform.device), non_blocking=True)
            self._platform.wait()
            self._host.let_go()
        for storage in (*self._gradients, *self._kept):
            storage.resize_(0)
        self.awake = False

    def wake(self) -> None:
        if self.awake:
            return
        for storage in (*self._gradients, *self._kept):
            storage.resize_(self._sizes[storage._cdata])
        for storage in self._kept:
            _all_of(storage, self._platform.device).copy_(self._copy_of(storage), non_blocking=True)
        self._host.let_go()
        self.awake = True

    def copy_of(self, tensor: Tensor) -> Tensor:
        """The same numbers in host memory, as they were when it rested last; a tensor that is not kept here is returned itself."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._starts:
            return tensor
        whole = self._copy_of(storage).view(tensor.dtype)
        return whole.as_strided(tensor.size(), tensor.stride(), whole.storage_offset() + tensor.storage_offset())

    def _copy_of(self, storage: UntypedStorage) -> Tensor:
        start = self._starts[storage._cdata]
        return self._host.memory[start : start + self._sizes[storage._cdata]]


class _HostMemory:
    """Bytes that outlast a turn."""

    def __init__(self, size: int, platform: Platform, folder: Path):
        self._map: mmap.mmap | None = None
        if not platform.is_cpu:
            self.memory = pinned(size)
            return
        self.memory = torch.empty(0, dtype=torch.uint8)
        if size:
            self._map = _mapped(size, folder)
            self.memory = torch.frombuffer(self._map, dtype=torch.uint8)

    def let_go(self) -> None:
        """The pages are not needed for a while: others may have the memory."""
        if self._map:
            self._map.madvise(mmap.MADV_DONTNEED)


def _mapped(size: int, folder: Path) -> mmap.mmap:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # now, and not when a page is written to, which would end the process
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise NotWritten(f"compute.offload: {size / 1e9:.1f} GB in {folder} are not to be had ({type(error).__name__}: {error})") from error


def _all_of(storage: UntypedStorage, device: torch.device) -> Tensor:
    """[bytes] uint8."""
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
