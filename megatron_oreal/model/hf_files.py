"""Hugging Face checkpoint folders: what is in them, and reading their tensors by name and slice. (Writing: hf_writer.)"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_oreal.model.architecture import config_file

INDEX = "model.safetensors.index.json"
CARRIED_ALONG = ("*.json", "merges.txt", "vocab.txt", "*.model", "*.tiktoken", "*.jinja", "additional_chat_templates/*.jinja", "LICENSE*")
"""What belongs to a checkpoint beside its weights: config, generation config, tokenizer, chat templates."""
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""Names that safetensors gives to the number formats of weights."""
HEAD_BIAS = "score.bias"
"""transformers' token-classification head has one; the token RM's has none (spec, Token RM), so there it is zero."""
EMBEDDING = "model.embed_tokens.weight"
PIECES, PIECE_BYTES = 64, 1 << 14
"""That a fingerprint reads of a file: a megabyte in all."""
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor before it is read."""

    dtype: torch.dtype | str  # as safetensors calls it where it is none of DTYPES
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class HFFolder(Mapping):
    """The tensors of a Hugging Face folder as slices that are read when indexed: folder[name][a:b].

    Every access maps the file anew, so that what was read before does not stay in this process' memory.
    """

    def __init__(self, folder: str | Path):
        """Read the headers of all files.

        Raises:
            ValueError: one line: a file that is missing or damaged, or lacks a tensor that the index promises.
        """
        self.folder = check_folder(folder)
        self.specs: dict[str, TensorSpec] = {}
        self._file: dict[str, Path] = {}
        promised = _weight_map(self.folder)
        for path in sorted({self.folder / n for n in promised.values()} or self.folder.glob("*.safetensors")):
            for name, spec in read_header(path).items():
                if name in self._file:
                    raise ValueError(f"model: {name} is both in {self._file[name]} and in {path}")
                self._file[name], self.specs[name] = path, spec
        absent = sorted(set(promised) - set(self._file))
        if absent:
            raise ValueError(f"model: {self.folder / INDEX} promises {_some(absent)}, which no file holds")

    def __getitem__(self, name: str) -> "_Slice":
        if name not in self._file:
            raise KeyError(f"{self.folder}: no tensor named {name}")
        return _Slice(self._file[name], name, self.specs[name].shape)

    def __iter__(self):
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)

    def check(self, expected: Mapping[str, tuple[int, ...]], tied: bool) -> None:
        """Whether these are the tensors of a model, no more and no fewer, in shapes and number formats that can be used.

        Args:
            expected: name -> shape.
            tied: the model's LM head is its embedding; a copy of it in the file may stand there.
        Raises:
            ValueError: one line with the names.
        """
        where = f"model: {self.folder}"
        missing = sorted(set(expected) - set(self))
        if missing:
            raise ValueError(f"{where} lacks {_some(missing)}")
        for name, shape in expected.items():
            if self.specs[name].shape != shape:
                raise ValueError(f"{where}: {name} has shape {list(self.specs[name].shape)}, its config asks for {list(shape)}")
            if self.specs[name].dtype not in DTYPES.values():
                raise ValueError(f"{where}: {name} is stored as {self.specs[name].dtype}; only {', '.join(DTYPES)} can be read")
        strays = self.strays(expected, tied)
        if strays:
            reason = next(iter(strays.values()))
            raise ValueError(f"{where}: {reason.format(_some(n for n, r in strays.items() if r == reason))}")

    def strays(self, expected: Collection[str], tied: bool) -> dict[str, str]:
        """Tensors that are none of the model's and may not stand beside it -> why not, with a place for the name.

        What may: buffers that old transformers saved, a copy of the embedding as tied LM head, a zero as bias of a score.
        """
        reasons = {name: self._stray(name, expected, tied) for name in sorted(set(self) - set(expected))}
        return {name: reason for name, reason in reasons.items() if reason}

    def _stray(self, name: str, expected: Collection[str], tied: bool) -> str:
        if name.endswith("rotary_emb.inv_freq"):
            return ""
        if name == "lm_head.weight" and tied:
            same = self.specs[name] == self.specs.get(EMBEDDING) and same_bits(self[name], self[EMBEDDING])
            return "" if same else f"tie_word_embeddings is set, but {{}} differs from {EMBEDDING}"
        if name == HEAD_BIAS and "score.weight" in expected:
            spec = self.specs[name]
            zero = spec.dtype in DTYPES.values() and spec.shape == (1,) and not self[name][:].any()
            return "" if zero else "{} is not zero; a token RM's head has no bias"
        return "no row in the weight table for {}"


class _Slice:
    """A tensor in a file: has a shape, and reads what it is indexed with."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...]):
        self._path, self._name, self.shape = path, name, shape

    def __getitem__(self, index) -> Tensor:
        with safe_open(self._path, framework="pt") as handle:
            return handle.get_slice(self._name)[index]


def same_bits(a: Tensor | _Slice, b: Tensor | _Slice, rows: int = 8192) -> bool:
    """Whether two tensors of one shape and number format are equal as bits, read some rows at a time: NaN equals itself, 0 is not -0."""
    blocks = (slice(i, i + rows) for i in range(0, b.shape[0], rows))
    return all(torch.equal(_bits(a[block]), _bits(b[block])) for block in blocks)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(BITS[tensor.element_size()])


def check_folder(folder: str | Path) -> Path:
    """The folder, if it has a config and safetensors files, all that its index names.

    Raises:
        ValueError: one line saying what is missing.
    """
    folder = Path(folder)
    config_file(folder)
    missing = sorted(n for n in set(_weight_map(folder).values()) if not (folder / n).is_file())
    if missing:
        raise ValueError(f"model: {folder} lacks {_some(missing)}, named in {INDEX}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"model: {folder} has no *.safetensors file")
    return folder


def fingerprint(folder: str | Path) -> str:
    """Tells checkpoints apart in a moment: config.json, and of each file of weights its size and pieces from all over it.

    A few steps of training change some weights in every matrix; in bfloat16 far from all of them.
    """
    found = hashlib.sha256((Path(folder) / "config.json").read_bytes())
    for path in sorted(Path(folder).glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name} {size} ".encode())
        with open(path, "rb") as file:
            for piece in range(PIECES):
                file.seek(max(size - PIECE_BYTES, 0) * piece // (PIECES - 1))
                found.update(file.read(PIECE_BYTES))
    return found.hexdigest()[:16]


def read_config(folder: str | Path):
    """The transformers config of a folder.

    Raises:
        ValueError: one line: there is none, or transformers cannot read it.
    """
    from transformers import AutoConfig  # here, because it takes seconds

    file = config_file(folder)
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # each field has its validator, and each validator its errors
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ValueError(f"model: {file} cannot be read ({reason[:300]})") from error


def carry_along(source: Path, target: Path) -> None:
    """Copy what belongs to a checkpoint beside its weights."""
    for pattern in CARRIED_ALONG:
        for path in source.glob(pattern):
            if path.is_file() and not path.name.endswith(".index.json"):
                (target / path.relative_to(source)).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target / path.relative_to(source))  # not its mode: config.json may be changed yet


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name -> file, from the index; empty where there is none."""
    index = folder / INDEX
    if not index.is_file():
        return {}
    try:
        weight_map = dict(json.loads(index.read_text())["weight_map"])
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise TypeError("weight_map holds what is no file's name")
        return weight_map
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model: {index} is no safetensors index ({type(error).__name__}: {error})") from error


def read_header(path: Path) -> dict[str, TensorSpec]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: one line: it is damaged or cut off.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
            return {n: TensorSpec(DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for n, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"model: {path} is damaged or cut off ({error})") from error


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
