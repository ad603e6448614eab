"""CPU shim: a frozen model's weights in a mapped file, so that they take memory only while they are read. Not used where CUDA is.

The kernel keeps the pages as long as nobody needs the memory, and reads them again where somebody did.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from megatron_oreal.errors import NotWritten


class MappedWeights:
    """Moves the parameters of a model's chunks into a file without a name, which ends with this process."""

    def __init__(self, chunks: Sequence[torch.nn.Module], folder: Path):
        """Raises NotWritten where `folder` cannot be made, or has no room."""
        parameters = [p for chunk in chunks for p in chunk.parameters()]
        try:
            self._map = _written(parameters, folder)
        except OSError as error:
            raise NotWritten(f"reference: its weights could not be written to {folder} ({type(error).__name__}: {error})") from error
        start = 0
        for parameter in parameters:
            mine = torch.frombuffer(self._map, dtype=parameter.dtype, count=parameter.numel(), offset=start)
            parameter.data = mine.view(parameter.shape)
            start += parameter.numel() * parameter.element_size()

    def release(self) -> None:
        """They are not needed for a while: others may have the memory."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _written(parameters: Sequence[torch.nn.Parameter], folder: Path) -> mmap.mmap:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for parameter in parameters:
            parameter.data.contiguous().view(-1).view(torch.uint8).numpy().tofile(file)
        file.flush()
        return mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
