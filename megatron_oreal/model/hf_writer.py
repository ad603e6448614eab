"""Writing a Hugging Face folder tensor by tensor. The safetensors library wants a whole file in memory; here one tensor is enough."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_oreal.model.hf_files import DTYPES, INDEX, TensorSpec, carry_along, read_header

MAX_SHARD_BYTES = 5 * 10**9
"""Largest file, as in transformers' save_pretrained. A tensor that is larger has a file of its own."""
NAMES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
"""model_type -> how the names of transformers' classes begin."""


def assign_shards(specs: Mapping[str, TensorSpec], max_bytes: int = MAX_SHARD_BYTES) -> list[dict[str, TensorSpec]]:
    """Which file holds which tensors, in their order."""
    shards: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.nbytes
    return shards


def shard_name(number: int, total: int) -> str:
    """File `number` (from 0) of `total`, as transformers names them."""
    return "model.safetensors" if total == 1 else f"model-{number + 1:05d}-of-{total:05d}.safetensors"


class ShardWriter:
    """One safetensors file whose tensors may come in any order. Use as a context manager: whole once it closes without an error."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], durable: bool = True):
        """`durable`: it is to survive a crash of the host, which takes as long as the disk does."""
        self._specs, self._begin, end, self._durable = dict(specs), {}, 0, durable
        header: dict = {"__metadata__": {"format": "pt"}}
        names = {dtype: name for name, dtype in DTYPES.items()}
        for name, spec in specs.items():
            self._begin[name] = end
            end += spec.nbytes
            header[name] = {"dtype": names[spec.dtype], "shape": list(spec.shape), "data_offsets": [self._begin[name], end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
        self._file = open(path, "wb")  # noqa: SIM115 (closed in __exit__)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._data = 8 + len(text)

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a tensor in its place, bit for bit. Each must be written once."""
        spec = self._specs.pop(name)
        if (tensor.dtype, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)} where {spec.dtype} {list(spec.shape)} was announced")
        self._file.seek(self._data + self._begin[name])
        self._file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                if self._durable:
                    os.fsync(self._file.fileno())
        if kind is None and self._specs:
            raise ValueError(f"{self._file.name}: never written: {', '.join(self._specs)}")


def write_shards(
    folder: Path,
    shards: Sequence[Mapping[str, TensorSpec]],
    tensors: Iterable[tuple[str, Tensor]],
    first: int = 0,
    total: int | None = None,
) -> None:
    """Write files `first`, `first`+1, ... of `total` from tensors that come in the order of the shards, one at a time."""
    tensors = iter(tensors)
    for number, shard in enumerate(shards, first):
        with ShardWriter(folder / shard_name(number, total or len(shards)), shard) as writer:
            for name, tensor in itertools.islice(tensors, len(shard)):
                writer.write(name, tensor)


def complete(folder: Path, source: Path, hf, head: str) -> None:
    """What makes a folder of safetensors files a checkpoint: the index, and config, tokenizer and the like as `source` has them.

    Args:
        hf: the transformers config of `source`.
        head: which of transformers' heads the model has, as in "ForCausalLM".
    """
    specs = write_index(folder)
    carry_along(source, folder)
    _fit_config(folder / "config.json", hf, head, {str(spec.dtype).removeprefix("torch.") for spec in specs})


def write_index(folder: Path) -> list[TensorSpec]:
    """The index of the folder's files; returns what they hold."""
    headers = {path.name: read_header(path) for path in sorted(folder.glob("*.safetensors"))}
    weight_map = {name: file for file, tensors in headers.items() for name in tensors}
    specs = [spec for tensors in headers.values() for spec in tensors.values()]
    size = sum(spec.nbytes for spec in specs)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=1, sort_keys=True))
    return specs


def _fit_config(path: Path, hf, head: str, formats: set[str]) -> None:
    """Change in config.json what the weights decide: head and number format; a file that says so already keeps its bytes."""
    config = json.loads(path.read_text())
    changed = dict(config)
    if not (config.get("architectures") or [""])[0].endswith(head):
        changed["architectures"] = [NAMES[hf.model_type] + head]
    if len(formats) == 1:
        changed |= dict.fromkeys({"dtype", "torch_dtype"} & set(config) or {"dtype"}, next(iter(formats)))
    if head != "ForCausalLM" and hf.num_labels != 1:
        changed |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if changed != config:
        path.write_text(json.dumps(changed, indent=2) + "\n")


def read_size(text: str) -> int:
    """Bytes of a size like "5GB" or "500MB" (powers of ten, as transformers counts) or "2GiB".

    Raises:
        ValueError: anything else, or nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = round(float(match[1]) * (1024 if match[3] else 1000) ** (" KMGT".index(match[2].upper() or " "))) if match else 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size; write it like 5GB or 500MB")
    return size
