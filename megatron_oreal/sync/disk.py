"""Deliver, rollout.sync=disk: a folder that all engines read."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from megatron_oreal.engines.calls import post_all
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.model.hf_files import TensorSpec
from megatron_oreal.model.hf_writer import ShardWriter
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.deliver import Delivery
from megatron_oreal.sync.gather import Bucket


class Disk(Delivery):
    """A folder that the engines read, one a version, a safetensors file a bucket; needs a file system that all of them see."""

    def __init__(self, engines: Sequence[Endpoint], config: RolloutConfig, sender: str, folder: Path, model: Path):
        """`folder` is shared by all senders; `model` has the config.json of what is sent."""
        self._engines, self._timeout_s, self._model = engines, config.sync_timeout_s, model
        self._folder, self._sender, self._sent = folder, sender, 0

    def begin(self) -> None:
        """Only the folder of the version in progress is kept: whatever lies here now has been loaded, or never will be."""
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            (self._folder / "config.json").write_bytes((self._model / "config.json").read_bytes())
        except OSError as error:
            raise ServerError(f"rollout.sync=disk: {error}") from error

    def send(self, bucket: Bucket, version: int) -> None:
        folder = self._of_version(version)
        try:
            folder.mkdir(exist_ok=True)
            specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in bucket}
            # Not safetensors' save_file, which copies every tensor first, nor durable: the next version replaces it.
            with ShardWriter(folder / f"{self._sender}-{self._sent:05d}.safetensors", specs, durable=False) as file:
                for name, tensor in bucket:
                    file.write(name, tensor)
        except OSError as error:
            raise ServerError(f"rollout.sync=disk: {folder}: {error}") from error
        self._sent += 1

    def end(self, version: int) -> None:
        """The folder is new in every version: an engine on another host has no stale listing of it."""
        folder = self._of_version(version)
        (self._folder / "config.json").rename(folder / "config.json")
        body = {"model_path": str(folder.resolve()), "weight_version": str(version), "flush_cache": True}
        post_all(self._engines, "/update_weights_from_disk", self._timeout_s, body)

    def _of_version(self, version: int) -> Path:
        return self._folder / f"version-{version:05d}"

    def leave(self) -> None:
        """Nothing is held."""
