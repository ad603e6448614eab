"""Hugging Face checkpoint folders: reading tensors by name and slice, and writing a folder that transformers loads."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
CARRIED_ALONG = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*")
"""What belongs to a checkpoint beside its weights: config, generation config, tokenizer, chat template."""


class HFFolder(Mapping):
    """The tensors of a Hugging Face folder as slices that are read when indexed: folder[name][a:b]."""

    def __init__(self, folder: str | Path):
        self.folder = check_folder(folder)
        self._files = {f: safe_open(f, framework="pt") for f in sorted(self.folder.glob("*.safetensors"))}
        self._where = {name: handle for handle in self._files.values() for name in handle.keys()}  # noqa: SIM118 (no mapping)

    def __getitem__(self, name: str):
        if name not in self._where:
            raise KeyError(f"{self.folder}: no tensor named {name}")
        return _Slice(self._where[name].get_slice(name))

    def __iter__(self):
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class _Slice:
    """A tensor in a file: has a shape, and reads what it is indexed with."""

    def __init__(self, handle):
        self._handle = handle
        self.shape = tuple(handle.get_shape())

    def __getitem__(self, index) -> Tensor:
        return self._handle[index]


def check_folder(folder: str | Path) -> Path:
    """The folder, if it has a config and safetensors files, all that its index names.

    Raises:
        ValueError: one line saying what is missing.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"model: {folder} is no Hugging Face model folder (config.json is missing)")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model: {folder} has no *.safetensors file")
    if (folder / INDEX).is_file():
        named = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        missing = sorted(n for n in named if not (folder / n).is_file())
        if missing:
            raise ValueError(f"model: {folder} lacks {', '.join(missing)}, named in {INDEX}")
    return folder


def write_part(folder: Path, part: int, parts: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """One pipeline stage's tensors as one safetensors file of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.cpu().contiguous() for n, t in tensors}, _part_path(folder, part, parts), metadata={"format": "pt"})


def finish(folder: Path, parts: int, like: Path) -> None:
    """Write the index of all parts, and carry config and tokenizer along from the folder that training started from."""
    weight_map, size = {}, 0
    for part in range(parts):
        path = _part_path(folder, part, parts)
        size += path.stat().st_size
        with safe_open(path, framework="pt") as handle:
            weight_map |= dict.fromkeys(handle.keys(), path.name)
    for pattern in CARRIED_ALONG:
        for path in like.glob(pattern):
            if path.name != INDEX:
                shutil.copy(path, folder / path.name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}, indent=1, sort_keys=True))


def _part_path(folder: Path, part: int, parts: int) -> Path:
    return folder / f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
