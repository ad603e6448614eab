"""Deliver, rollout.sync=disk: a folder that all hosts read. The first version has all weights, later ones what changed."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from megatron_oreal.engines.calls import post_all
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.model.hf_files import TensorSpec
from megatron_oreal.model.hf_writer import ShardWriter
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.chain import Chain, File, Manifest
from megatron_oreal.sync.deliver import Delivery
from megatron_oreal.sync.delta import bits_of, changes
from megatron_oreal.sync.gather import Bucket
from megatron_oreal.sync.host_copy import mapped


class Disk(Delivery):
    """A folder that is read by all hosts, one a version, a file a bucket; needs a file system that all of them see.

    With a chain each host's copy is brought up to date from it (Copies), and the engines load from there. Without one, external engines,
    beside which nobody of ours keeps a copy, read it themselves, and everything is written every time.
    """

    def __init__(
        self, engines: Sequence[Endpoint], config: RolloutConfig, sender: str, folder: Path, model: Path, chain: Chain | None = None
    ):
        """`folder` is shared by all senders; `model` has the config.json of what is sent; `chain`: see WeightSender."""
        self._engines, self._timeout_s, self._model, self._chain = engines, config.sync_timeout_s, model, chain
        self._folder, self._sender, self._link, self._flush = folder, sender, 0, not config.keep_cache
        self._files: dict[str, File] = {}  # of the version in progress
        self._old: dict[str, np.ndarray] = {}  # in this host's copy
        self.written = 0, True

    def begin(self) -> None:
        """Only the folder of the version in progress is kept: whatever lies here now has been loaded, or never will be."""
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            if not self._chain:
                (self._folder / "config.json").write_bytes((self._model / "config.json").read_bytes())
        except OSError as error:
            raise ServerError(f"rollout.sync=disk: {error}") from error

    def send(self, bucket: Bucket, version: int) -> None:
        folder = self._of_version(version)
        path = folder / f"{self._sender}-{len(self._files):05d}.{'changes' if self._link else 'safetensors'}"
        try:
            folder.mkdir(exist_ok=True)
            self._files[path.name] = self._write_changes(path, bucket) if self._link else _write_whole(path, bucket)
        except OSError as error:
            raise ServerError(f"rollout.sync=disk: {folder}: {error}") from error

    def _write_changes(self, path: Path, bucket: Bucket) -> File:
        """Against what this host's copy holds."""
        self._chain.check(self._link - 1)
        self._old = self._old or mapped(self._chain.own, "r")
        data = msgspec.msgpack.encode(changes((name, self._old[name], bits_of(tensor)) for name, tensor in bucket))
        path.write_bytes(data)
        return File(len(data), hashlib.sha256(data).hexdigest())

    def finish(self, version: int) -> None:
        """With a chain: what was written, for those who read it on other hosts; the next version is another link."""
        self.written = sum(file.size for file in self._files.values()), self._link == 0
        if self._chain:
            path = self._chain.manifest(version, self._sender)
            try:
                path.write_bytes(msgspec.json.encode(Manifest(self._chain.token, self._link, self._files)))
            except OSError as error:
                raise ServerError(f"rollout.sync=disk: {error}") from error
            self._link += 1
        self._files = {}

    def end(self, version: int) -> None:
        """The folder is new in every version: an engine on another host has no stale listing of it."""
        folder = self._of_version(version)
        if not self._chain:
            (self._folder / "config.json").rename(folder / "config.json")
        paths = [self._chain.copies[engine.number] if self._chain else folder.resolve() for engine in self._engines]
        bodies = [{"model_path": str(path), "weight_version": str(version), "flush_cache": self._flush} for path in paths]
        post_all(self._engines, "/update_weights_from_disk", self._timeout_s, bodies)

    def _of_version(self, version: int) -> Path:
        return self._chain.version(version) if self._chain else self._folder / f"version-{version:05d}"

    def leave(self) -> None:
        """Nothing is held but the view of the copy."""
        self._old = {}


def _write_whole(path: Path, bucket: Bucket) -> File:
    specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in bucket}
    # Not safetensors' save_file, which copies every tensor first, nor durable: the next version replaces it.
    with ShardWriter(path, specs, durable=False) as file:
        for name, tensor in bucket:
            file.write(name, tensor)
    return File(path.stat().st_size)
