"""Host memory that a GPU reads and writes at full speed, while the CPU goes on."""

import torch
from torch import Tensor

from megatron_oreal.errors import NotWritten

PORTABLE = 1  # cudaHostRegisterPortable


def pinned(nbytes: int) -> Tensor:
    """[nbytes] uint8; without a GPU plain memory. It is the process's until `unpin`.

    Torch's own pinned memory would be rounded up to a power of two: to 64 GiB of 33.

    Raises:
        NotWritten: the driver refuses.
    """
    memory = torch.empty(nbytes, dtype=torch.uint8)
    if nbytes and torch.cuda.is_available():
        error = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), nbytes, PORTABLE))
        if error:
            raise NotWritten(f"host memory: {nbytes / 1e9:.1f} GB could not be pinned (CUDA error {error}); `ulimit -l` may be too low")
    return memory


def unpin(memory: Tensor) -> None:
    """Before it is freed."""
    if memory.nbytes and torch.cuda.is_available():
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
