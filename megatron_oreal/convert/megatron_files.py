"""Megatron distributed checkpoints (torch_dist), written and read piece by piece without Megatron's ranks.

A folder is what Megatron-LM's --load takes:
    latest_checkpointed_iteration.txt   "release"
    release/.metadata                   which file holds which chunk of which tensor (torch.distributed.checkpoint)
    release/__<rank>_0.distcp           one file a rank of the layout
    release/common.pt, metadata.json
The reader takes such a folder, the iteration's folder itself, and a model of this project's training checkpoints.
"""

import io
import mmap
import os
import pickle
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.utils import _create_file_view

from megatron_oreal.model.blueprint import Piece
from megatron_oreal.model.hf_files import DTYPES

LATEST = "latest_checkpointed_iteration.txt"
NOT_THE_MODEL = ("optimizer.", "rng", "rerun_state_machine", "opt_param_scheduler")


class MegatronWriter:
    """Writes a checkpoint's files one after the other: `open_rank`, then its objects and pieces; `finish` at last."""

    def __init__(self, folder: Path):
        self._root, self._folder = folder, folder / "release"
        self._folder.mkdir(parents=True)
        self._tensors: dict[str, TensorStorageMetadata] = {}
        self._objects: list[str] = []
        self._where: dict[MetadataIndex, _StorageInfo] = {}
        self._file: io.BufferedWriter | None = None

    def open_rank(self, rank: int) -> None:
        """What is written from here on belongs to this rank."""
        self._close_file()
        self._file = open(self._folder / f"__{rank}_0.distcp", "wb")  # noqa: SIM115 (closed by the next, or finish)

    def write_object(self, key: str) -> None:
        """An empty extra state, as the layers of Megatron and Transformer Engine have without FP8."""
        self._objects.append(key)
        self._save([None], MetadataIndex(key))  # Megatron keeps lists of objects

    def write(self, piece: Piece, data: Tensor) -> None:
        """A chunk of a tensor."""
        chunk = ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes))
        properties = TensorProperties(dtype=data.dtype)
        known = self._tensors.setdefault(piece.key, TensorStorageMetadata(properties, torch.Size(piece.global_shape), []))
        known.chunks.append(chunk)
        own = data if data.untyped_storage().nbytes() == data.nbytes else data.clone()  # torch.save writes the whole storage
        self._save(own, MetadataIndex(piece.key, chunk.offsets))

    def finish(self) -> None:
        """The files that make it a checkpoint."""
        self._close_file()
        metadata = Metadata(self._tensors | {k: BytesStorageMetadata() for k in self._objects}, storage_data=self._where)
        with open(self._folder / ".metadata", "wb") as file:
            pickle.dump(metadata, file)
        torch.save({"checkpoint_version": 3.0, "iteration": 0}, self._folder / "common.pt")
        save_config(CheckpointingConfig("torch_dist", 1, "torch", 1), str(self._folder))
        (self._root / LATEST).write_text("release")

    def _save(self, what: Tensor | list, index: MetadataIndex) -> None:
        begin, sink = self._file.tell(), _Sink(self._file)
        try:
            torch.save(what, sink)
        except (RuntimeError, OSError) as error:
            raise sink.failure or error from error
        self._where[index] = _StorageInfo(Path(self._file.name).name, begin, self._file.tell() - begin)

    def _close_file(self) -> None:
        if self._file:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file = None


class _Sink:
    """A file that remembers why it could not be written: torch.save only says that its archive is at an unexpected place."""

    def __init__(self, file: io.BufferedWriter):
        self._file, self.flush = file, file.flush
        self.failure: OSError | None = None

    def write(self, data) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


class MegatronFolder:
    """A checkpoint's tensors, read piece by piece."""

    def __init__(self, folder: str | Path):
        """Read what the checkpoint says of itself, and compare with its files.

        Raises:
            ValueError: one line: no checkpoint, or a file missing or cut off.
        """
        self.folder = _find(Path(folder))
        try:
            metadata = FileSystemReader(self.folder).read_metadata()
        except Exception as error:  # unpickling a damaged file raises nearly anything
            raise ValueError(f"convert: {self.folder / '.metadata'} cannot be read ({type(error).__name__}: {error})") from error
        self.tensors = {
            key: value
            for key, value in metadata.state_dict_metadata.items()
            if isinstance(value, TensorStorageMetadata) and not key.startswith(NOT_THE_MODEL)
        }
        self.beside = sum(key not in self.tensors and "_extra_state" not in key for key in metadata.state_dict_metadata)
        self._where = metadata.storage_data
        self._check_files()

    @property
    def has_score_head(self) -> bool:
        """Whether it is a token RM."""
        head = self.tensors.get("output_layer.weight")
        return head is not None and head.size[0] == 1

    def check(self, pieces: Iterable[Piece]) -> None:
        """Whether the checkpoint holds these pieces, whole, and no other tensor of a model.

        Raises:
            ValueError: one line with the name.
        """
        pieces = list(pieces)
        if wrong := next(filter(None, map(self.lacks, pieces)), ""):
            raise ValueError(f"convert: {self.folder}{wrong}")
        if unknown := self.strays(pieces):
            raise ValueError(f"convert: {self.folder}: no row in the weight table for {', '.join(unknown[:3])} ({len(unknown)} in all)")

    def strays(self, pieces: Iterable[Piece]) -> list[str]:
        """Tensors of a model that none of these pieces is a part of."""
        return sorted(set(self.tensors) - {self._as_stored(piece).key for piece in pieces})

    def lacks(self, piece: Piece) -> str:
        """Why this piece cannot be read, for the end of a message; empty if it can."""
        place = self._as_stored(piece)
        stored = self.tensors.get(place.key)
        if stored is None:
            return f" lacks {piece.key}"
        shape, want = tuple(stored.size), place.global_shape
        fits = shape[1:] == want[1:] and shape[0] >= want[0] if piece.may_be_padded else shape == want
        if not fits:
            return f": {place.key} has shape {list(shape)}, the config asks for {list(want)}"
        if stored.properties.dtype not in DTYPES.values():
            return f": {place.key} is stored as {stored.properties.dtype}; only {', '.join(DTYPES)} can be read"
        if sum(prod(c.sizes) for c in stored.chunks) < prod(shape):
            return f": parts of {place.key} are missing"
        return ""

    def dtype(self, piece: Piece) -> torch.dtype:
        """Number format of the tensor that the piece is a part of."""
        return self.tensors[self._as_stored(piece).key].properties.dtype

    def read(self, piece: Piece, target: Tensor) -> None:
        """Fill `target`, a view in the piece's shape."""
        piece = self._as_stored(piece)
        region = ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes))
        target = target.view(piece.sizes)
        for item in create_read_items_for_chunk_list(piece.key, self.tensors[piece.key], [region]):
            info = self._where[item.storage_index]
            try:
                chunk = _narrow(self._mapped(info), item.storage_offsets, item.lengths).view(item.lengths)
            except OSError:
                raise
            except Exception as error:  # as with .metadata
                reason = (str(error).splitlines() or [""])[0][:200]
                file = self.folder / info.relative_path
                raise ValueError(f"convert: {file} is damaged at {piece.key} ({type(error).__name__}: {reason})") from error
            _narrow(target, item.dest_offsets, item.lengths).copy_(chunk)

    def _mapped(self, info: _StorageInfo) -> Tensor:
        """A chunk as it lies in its file. (torch.load would copy it twice, and fill that much new memory.)"""
        with open(self.folder / info.relative_path, "rb") as file:
            with FakeTensorMode():  # torch.load then says where the data is, and reads none
                shape = torch.load(_create_file_view(file, info.offset, info.length), weights_only=True)
            begin = info.offset + shape.untyped_storage()._checkpoint_offset
            page = begin % mmap.ALLOCATIONGRANULARITY
            area = mmap.mmap(file.fileno(), page + shape.untyped_storage().nbytes(), access=mmap.ACCESS_COPY, offset=begin - page)
        data = torch.frombuffer(area, dtype=shape.dtype, offset=page)
        return data.as_strided(shape.shape, shape.stride(), shape.storage_offset())

    def _as_stored(self, piece: Piece) -> Piece:
        """Checkpoints whose layers are not known to be equal name each: decoder.layers.7.mlp... instead of a seventh row."""
        if piece.key in self.tensors or not piece.key.startswith("decoder.layers."):
            return piece
        key = piece.key.replace("decoder.layers.", f"decoder.layers.{piece.offsets[0]}.")
        return Piece(key, piece.global_shape[1:], piece.offsets[1:], piece.sizes[1:], piece.may_be_padded, piece._view)

    def _check_files(self) -> None:
        sizes: dict[str, int] = {}
        for info in self._where.values():
            sizes[info.relative_path] = max(sizes.get(info.relative_path, 0), info.offset + info.length)
        for name, size in sizes.items():
            file = self.folder / name
            if not file.is_file():
                raise ValueError(f"convert: {self.folder} lacks {name}")
            if file.stat().st_size < size:
                raise ValueError(f"convert: {file} is cut off: {file.stat().st_size} of {size} bytes")


def _narrow(tensor: Tensor, offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """A box of a tensor."""
    return tensor[tuple(slice(begin, begin + length) for begin, length in zip(offsets, lengths, strict=True))]


def _find(folder: Path) -> Path:
    """The folder with .metadata that a user may mean by `folder`."""
    if (folder / LATEST).is_file():
        latest = (folder / LATEST).read_text().strip()
        folder = folder / (f"iter_{int(latest):07d}" if latest.isdigit() else latest)
    if (folder / ".metadata").is_file():
        return folder
    models = sorted(p.parent.name for p in folder.glob("*/.metadata"))
    hint = f"; it holds {' and '.join(models)}: name one of them" if models else ""
    raise ValueError(f"convert: {folder} is no Megatron distributed checkpoint (.metadata is missing){hint}")
