"""Writes a Megatron distributed checkpoint in a thread while training goes on.

Megatron-Core's own background writers fork the rank, or a server process for their queue: a process with NCCL or gloo threads is not
safe to fork, and those children outlive a rank that is killed. A thread ends with its rank; writing releases the interpreter's lock.
"""

import queue
import threading
from pathlib import Path

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from megatron_oreal.errors import NotWritten


class BackgroundSave:
    """One dist_checkpointing.save. Made (collectively) when the tensors are as they are to be saved; they may change afterwards."""

    def __init__(self, sharded: dict, folder: Path):
        self._folder = folder
        filesystem_async._get_write_results_queue = queue.Queue  # a thread's results need no server process
        self._request = dist_checkpointing.save(sharded, str(folder), async_sharded_save=True)
        self._thread = threading.Thread(target=self._write, args=(self._copies(),), name="checkpoint", daemon=True)
        self._thread.start()

    def _copies(self) -> list:
        """This rank's parts in host memory, and none of it shared with the live model."""
        if self._request.async_fn is None:
            return []
        return [
            (file, key, (data, [(item, _own(tensor)) for item, tensor in tensors]))
            for file, key, (data, tensors) in self._request.async_fn_args[1]
        ]

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
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
            raise NotWritten(f"checkpoint: {self._folder} could not be written ({reason})") from error


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()
