"""Writes a Megatron distributed checkpoint in a thread while training goes on.

Megatron-Core's own background writers fork the rank, or a server process for their queue: a process with NCCL or gloo threads is not
safe to fork, and those children outlive a rank that is killed. A thread ends with its rank; writing releases the interpreter's lock.
"""

import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as torch_strategies
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.planner import WriteItemType

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn.host_memory.pinned import pinned, unpin

ALIGNED = 64
"""Bytes at which each copy begins: any dtype can be viewed there."""
OF_A_STREAM = ("iostream error", "PytorchStreamWriter", "inline_container")
"""What torch.save says in its RuntimeError where a disk is full: no word of the disk."""


class HostCopies:
    """Host memory that a rank's tensors on a GPU are copied to, pinned: taken at the first save, and kept for the next ones."""

    def __init__(self):
        self._memory = torch.empty(0, dtype=torch.uint8)

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same numbers in host memory, once the GPU has copied them all; tensors that are there already stay where they are."""
        ends = list(accumulate(-(-t.nbytes // ALIGNED) * ALIGNED for t in tensors if t.is_cuda))
        if ends and self._memory.nbytes < ends[-1]:
            unpin(self._memory)
            self._memory = torch.empty(0, dtype=torch.uint8)  # before the larger one is there
            self._memory = pinned(ends[-1])
        starts = iter([0, *ends])
        copies = [_like(t, self._memory[next(starts) :]).copy_(t, non_blocking=True) if t.is_cuda else t for t in tensors]
        if ends:
            torch.cuda.synchronize()
        return copies


def _like(tensor: Tensor, memory: Tensor) -> Tensor:
    return memory[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)


class BackgroundSave:
    """One dist_checkpointing.save. Made (collectively) when the tensors are as they are to be saved.

    Tensors on a GPU are copied then, and may change afterwards. Those in host memory are written from where they are, each copied
    when its turn comes: they have to stay as they are until `done`.
    """

    def __init__(self, sharded: dict, folder: Path, host: HostCopies):
        """`host`: no other save that is still being written may use it. Raises NotWritten where nothing can be written."""
        self._folder, self._host = folder, host
        filesystem_async._get_write_results_queue = queue.Queue  # a thread's results need no server process
        torch_strategies.FileSystemWriterAsync = _LateCopies
        try:
            self._request = dist_checkpointing.save(sharded, str(folder), async_sharded_save=True)
        except RuntimeError as error:  # what is common to all ranks is written at once
            if not any(said in str(error) for said in OF_A_STREAM):
                raise
            raise self._not_written(error) from error
        self._thread = threading.Thread(target=self._write, args=(self._in_host_memory(),), name="checkpoint", daemon=True)
        self._thread.start()

    def _in_host_memory(self) -> list:
        """This rank's parts, a bucket a file."""
        if self._request.async_fn is None:
            return []
        buckets = self._request.async_fn_args[1]
        copies = iter(self._host.of([t for *_, (_, tensors) in buckets for _, t in tensors]))
        return [(file, key, (data, _OneByOne([(item, next(copies)) for item, _ in tensors]))) for file, key, (data, tensors) in buckets]

    def _write(self, buckets: list) -> None:
        if self._request.async_fn is None:
            return
        transforms, (_, _, results) = self._request.async_fn.args[0], self._request.async_fn_args
        written = {}
        for index, bucket in enumerate(buckets):
            answers, pending = queue.Queue(), queue.Queue()
            pending.put(index)
            filesystem_async.FileSystemWriterAsync.write_preloaded_data(transforms, index, bucket, answers, pending, use_fsync=True)
            _, answer = answers.get_nowait()
            if isinstance(answer, Exception):
                results.put(answer)
                return
            written[index] = answer
        results.put(written)

    @property
    def done(self) -> bool:
        """Whether this rank has written its part."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Raises NotWritten where this rank's part is not written within `seconds`."""
        self._thread.join(max(seconds, 0))
        if not self.done:
            raise NotWritten(f"checkpoint: {self._folder} is not written within checkpoint.timeout_s")

    def complete(self) -> None:
        """The last, collective part, once all ranks are done.

        Raises:
            NotWritten: a rank could not write.
        """
        try:
            for finalize in self._request.finalize_fns:
                finalize()
        except (RuntimeError, CheckpointException) as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> NotWritten:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        room = "" if (free := _free(self._folder)) is None else f"; {free / 1e9:.2f} GB are free there"
        return NotWritten(f"checkpoint: {self._folder} could not be written ({reason}){room}")


def _free(folder: Path) -> int | None:
    """Bytes: a writer says no more of a full disk than that it stands at another place than it thought."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


class _LateCopies(filesystem_async.FileSystemWriterAsync):
    """Megatron's writer, which would copy every tensor in host memory that is a part of a larger buffer before it begins."""

    def prepare_write_data(self, plan, planner) -> None:
        """Sort the plan's items into a bucket for each file; nothing is copied yet."""
        self.write_buckets = []
        for number, items in enumerate(filesystem_async._split_by_size_and_type(self.thread_count, plan.items)):
            name = f"{plan.storage_data.prefix}{number}{filesystem_async.DEFAULT_SUFFIX}"
            data = [(item, planner.resolve_data(item)) for item in items if item.type == WriteItemType.BYTE_IO]
            tensors = [(item, planner.resolve_data(item).detach()) for item in items if item.type != WriteItemType.BYTE_IO]
            if items:
                self.write_buckets.append((Path(self.checkpoint_dir) / name, name, (data, tensors)))
        self.results_queue = filesystem_async._get_write_results_queue() if self.write_buckets else None


class _OneByOne:
    """(item, tensor) pairs; a tensor gets memory of its own when it is asked for, since torch.save writes all of a shared one."""

    def __init__(self, tensors: list[tuple[object, Tensor]]):
        self._tensors = tensors

    def __iter__(self) -> Iterator[tuple[object, Tensor]]:
        return ((item, tensor.clone()) for item, tensor in self._tensors)
