"""One copy of the weights on a host, from which its engines load (rollout.sync=disk)."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from megatron_oreal.errors import ServerError
from megatron_oreal.model.hf_files import DTYPES
from megatron_oreal.sync.chain import STATE, Chain, File, Manifest
from megatron_oreal.sync.delta import THREADS, Change, apply


class HostCopy:
    """This host's copy, kept by one process of it: takes as much of the host's disk, or of its memory, as the weights.

    Senders on this host compare with it what they send, and so need no second copy in their own memory.
    """

    def __init__(self, chain: Chain, model: Path):
        """Removes what a killed run left in its place. `model`: whose config.json engines want beside the weights."""
        self._chain, self._folder, self._model, self._link = chain, chain.own, model, -1
        self.remove()

    def follow(self, version: int) -> None:
        """Take the next version, which all senders have written.

        Raises:
            ServerError: it does not fit, or there is no room; nothing of the copy counts then.
        """
        self._link += 1
        try:
            files = self._written(version)
            if self._link:
                self._change(files)
            else:
                self._copy(files)
            (self._folder / STATE).write_text(self._chain.at(self._link))
        except (OSError, msgspec.DecodeError) as error:
            raise ServerError(f"rollout.sync=disk: this host's copy of the weights (rollout.sync_copy): {error}") from error

    def _written(self, version: int) -> dict[Path, File]:
        """By all senders."""
        files = {}
        for sender in self._chain.senders:
            path = self._chain.manifest(version, sender)
            found = msgspec.json.decode(path.read_bytes(), type=Manifest)
            if (found.token, found.link) != (self._chain.token, self._link):
                raise ServerError(f"rollout.sync=disk: {path} is of another publication")
            files |= {path.with_name(name): file for name, file in found.files.items()}
        return files

    def _copy(self, files: Mapping[Path, File]) -> None:
        self._folder.mkdir(mode=0o700, parents=True)
        shutil.copyfile(self._model / "config.json", self._folder / "config.json")
        with ThreadPoolExecutor(THREADS) as threads:
            copies = list(threads.map(lambda path: Path(shutil.copyfile(path, self._folder / path.name)), files))
        for copy, (path, file) in zip(copies, files.items(), strict=True):
            _check(path, copy.stat().st_size == file.size)
        self._memory = mapped(self._folder, "r+")

    def _change(self, files: Mapping[Path, File]) -> None:
        self._chain.check(self._link - 1)
        (self._folder / STATE).unlink()
        for path, file in files.items():
            data = path.read_bytes()
            _check(path, hashlib.sha256(data).hexdigest() == file.sha256)
            apply(msgspec.msgpack.decode(data, type=list[Change]), self._memory)

    def remove(self) -> None:
        """Gives the room back."""
        self._memory = {}
        shutil.rmtree(self._folder, ignore_errors=True)


def _check(path: Path, whole: bool) -> None:
    if not whole:
        raise ServerError(f"rollout.sync=disk: {path} did not arrive as it was written")


def mapped(folder: Path, mode: str) -> dict[str, np.ndarray]:
    """The tensors in a folder's safetensors files, in place: [numbers] as unsigned integers of their bits. `mode`: as of numpy.memmap."""
    found = {}
    for path in folder.glob("*.safetensors"):
        file = np.asarray(np.memmap(path, np.uint8, mode))
        begin = 8 + int.from_bytes(file[:8].tobytes(), "little")
        header = json.loads(file[8:begin].tobytes())
        for name in header.keys() - {"__metadata__"}:
            start, end = header[name]["data_offsets"]
            found[name] = file[begin + start : begin + end].view(f"u{DTYPES[header[name]['dtype']].itemsize}")
    return found
