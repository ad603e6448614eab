"""What became of the weights from one version to the next: where numbers changed, and which of their bits. Lossless, whatever they hold.

At the learning rates of reinforcement learning most numbers of bfloat16 stay as they are, and of the others the lowest bits change. Places,
as distances from one to the next, and XORed bits, both byte plane by byte plane and compressed with zstd: that was six tenths of the size
of everything XORed and compressed, at twice the speed (README.md).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow
from torch import Tensor

from megatron_oreal.model.hf_files import BITS

PIECE = 1 << 22
"""Numbers of a tensor that are looked at in one go: threads share a large one, and what that takes of memory is bounded."""
DENSE = 0.25
"""Share of changed numbers from which a piece is sent whole: its places would cost about what they save."""
THREADS = min(8, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Change:
    """Of a piece of a tensor."""

    name: str
    begin: int  # numbers of the tensor before the piece
    length: int  # numbers of the piece
    count: int  # of them that changed
    gaps: bytes  # [count] uint32, each one's distance from the one before, packed; empty: the piece is sent whole
    bits: bytes  # [count] what is XORed into each, packed; or all of the piece's bytes as they are


def bits_of(tensor: Tensor) -> np.ndarray:
    """[numbers] as unsigned integers; on the CPU without a copy where the tensor is in one piece."""
    size = tensor.element_size()
    return tensor.detach().cpu().contiguous().flatten().view(BITS[size]).numpy().view(f"u{size}")


def changes(tensors: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> list[Change]:
    """Of tensors given as (name, old bits, new bits); nothing for what is as it was."""
    pieces = [(name, at, old[at : at + PIECE], new[at : at + PIECE]) for name, old, new in tensors for at in range(0, len(new), PIECE)]
    with ThreadPoolExecutor(THREADS) as threads:
        return [change for change in threads.map(_change, pieces) if change.count]


def apply(found: Sequence[Change], memory: Mapping[str, np.ndarray]) -> None:
    """Bring the old bits, in place, to the new ones."""
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda change: _apply(change, memory[change.name]), found))


def _change(piece: tuple[str, int, np.ndarray, np.ndarray]) -> Change:
    name, begin, old, new = piece
    differs = old != new
    count = int(np.count_nonzero(differs))
    if count > DENSE * len(new):
        return Change(name, begin, len(new), count, b"", new.tobytes())
    places = np.flatnonzero(differs)
    gaps = np.diff(places, prepend=0).astype(np.uint32)
    return Change(name, begin, len(new), count, _packed(gaps), _packed(old[places] ^ new[places]))


def _apply(change: Change, memory: np.ndarray) -> None:
    piece = memory[change.begin : change.begin + change.length]
    if not change.gaps:
        piece[:] = np.frombuffer(change.bits, piece.dtype)
        return
    places = np.cumsum(_unpacked(change.gaps, change.count, np.dtype(np.uint32)), dtype=np.int64)
    piece[places] ^= _unpacked(change.bits, change.count, piece.dtype)


def _packed(numbers: np.ndarray) -> bytes:
    """First the lowest byte of all, and so on: the higher ones are zero nearly everywhere."""
    planes = np.ascontiguousarray(numbers.view(np.uint8).reshape(-1, numbers.itemsize).T)
    return _codec().compress(planes, asbytes=True)


def _unpacked(data: bytes, count: int, dtype: np.dtype) -> np.ndarray:
    planes = np.frombuffer(_codec().decompress(data, count * dtype.itemsize), np.uint8).reshape(dtype.itemsize, count)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(count)


def _codec() -> pyarrow.Codec:
    """Of a thread of its own: it keeps its workspace."""
    return pyarrow.Codec("zstd", compression_level=1)
