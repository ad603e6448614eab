"""New weights into a serving engine: pause, flush, begin, send buckets, end, continue; then proof by checksum.

Several processes may send to one engine, one after the other (with pipeline parallelism each stage's first rank holds its own
layers): each has a WeightSync of its own; the first of a turn opens the update, the last one closes it.
"""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from megatron_oreal.rollout.checksum import EngineChecksums
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.server import Endpoint, ServerError

POLL_S = 0.0005
NamedTensors = Iterable[tuple[str, Tensor]]


class Way(Protocol):
    """How tensors travel: one of the ways of rollout.sync."""

    def begin(self) -> None: ...

    def send(self, tensors: NamedTensors, version: int) -> None: ...

    def end(self, version: int) -> None: ...

    def leave(self) -> None: ...


class WeightSync:
    """One sender's connection to the engine. Names are Hugging Face's, tensors whole."""

    def __init__(self, endpoint: Endpoint, config: RolloutConfig, sender: str, folder: Path, device: torch.device):
        """`sender` is unique among the processes that send to this engine; `folder` is for the way over disk.

        Raises:
            ValueError: the engine is spread over several ranks, whose checksums this side cannot compute.
            ServerError: it refuses, or does not answer or join within rollout.sync_timeout_s.
        """
        self._endpoint, self._timeout_s = endpoint, config.sync_timeout_s
        _require_one_rank(endpoint, config.sync_timeout_s)
        self._way: Way = (
            _Broadcast(endpoint, config, sender, device) if config.sync == "distributed" else _Disk(endpoint, config, sender, folder)
        )
        self._sent: EngineChecksums | None = None

    def open(self) -> None:
        """No request runs and nothing of the old weights is cached when this returns."""
        self._endpoint.post("/pause_generation", {"mode": "retract"}, self._timeout_s)
        self._endpoint.post("/flush_cache", timeout_s=self._timeout_s)
        self._way.begin()

    def send(self, tensors: NamedTensors, version: int) -> None:
        """Send this sender's tensors, between open() of the first and close() of the last sender."""
        self._sent = EngineChecksums()
        self._way.send(self._sent.passing(tensors), version)

    def close(self, version: int) -> None:
        """The engine serves the new weights from here on."""
        self._way.end(version)
        self._endpoint.post("/update_weight_version", {"new_version": str(version), "abort_all_requests": False}, self._timeout_s)
        self._endpoint.post("/continue_generation", timeout_s=self._timeout_s)

    def verify(self) -> tuple[int, int]:
        """Compare the engine's checksums with those of what this sender sent last.

        Returns (tensors compared, tensors that the engine holds): over all senders the former must sum to the latter.

        Raises:
            ServerError: naming the first tensor that differs or that the engine does not have.
        """
        answer = self._endpoint.post("/weights_checker", {"action": "checksum"}, self._timeout_s)
        return self._sent.compare(answer, self._endpoint.url)

    def disconnect(self) -> None:
        """Leave the group with the engine."""
        self._way.leave()


class _Broadcast:
    """Flattened buckets over a gloo or NCCL group of the sender and the engine."""

    def __init__(self, endpoint: Endpoint, config: RolloutConfig, sender: str, device: torch.device):
        self._endpoint, self._device, self._timeout_s = endpoint, device, config.sync_timeout_s
        self._bucket_bytes = config.sync_bucket_mb * 2**20
        self._name = f"megatron_oreal_{sender}_{secrets.token_hex(4)}"  # an engine may still have the group of a run that was killed
        self._group = self._join("gloo" if device.type == "cpu" else "nccl")

    def _join(self, backend: str) -> dist.ProcessGroup:
        address = _own_address(self._endpoint.url, self._timeout_s)
        store = listening_store(address, self._timeout_s)
        body = {
            "master_address": address,
            "master_port": store.port,
            "rank_offset": 1,
            "world_size": 2,
            "group_name": self._name,
            "backend": backend,
        }
        invitation = _Background(lambda: self._endpoint.post("/init_weights_update_group", body, self._timeout_s))
        joining = _Background(lambda: _group_beside_the_default_one(backend, store, 2, self._name, self._timeout_s, self._device))
        invitation.wait_with(joining.done, self._timeout_s, "joining the weight-update group")
        return joining.result()

    def begin(self) -> None:
        self._endpoint.post("/begin_weight_update", timeout_s=self._timeout_s)

    def send(self, tensors: NamedTensors, version: int) -> None:
        for bucket in _buckets(tensors, self._bucket_bytes):
            body = {
                "names": [name for name, _ in bucket],
                "dtypes": [str(t.dtype).removeprefix("torch.") for _, t in bucket],
                "shapes": [list(t.shape) for _, t in bucket],
                "group_name": self._name,
                "load_format": "flattened_bucket",
                "flush_cache": False,
                "weight_version": str(version),
            }
            call = _Background(lambda body=body: self._endpoint.post("/update_weights_from_distributed", body, self._timeout_s))
            flat = torch.cat([t.contiguous().flatten().view(torch.uint8) for _, t in bucket]).to(self._device)
            work = dist.broadcast(flat, src=0, group=self._group, async_op=True)
            call.wait_with(work.is_completed, self._timeout_s, "broadcasting weights")

    def end(self, version: int) -> None:
        self._endpoint.post("/end_weight_update", timeout_s=self._timeout_s)

    def leave(self) -> None:
        call = _Background(lambda: self._endpoint.post("/destroy_weights_update_group", {"group_name": self._name}, 10))
        dist.destroy_process_group(self._group)
        call.join(10)


class _Disk:
    """A folder that the engine reads, one safetensors file a sender; needs a file system that all of them see."""

    def __init__(self, endpoint: Endpoint, config: RolloutConfig, sender: str, folder: Path):
        self._endpoint, self._timeout_s = endpoint, config.sync_timeout_s
        self._folder, self._file = folder, folder / f"{sender}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        model = Path(self._endpoint.get("/model_info", self._timeout_s)["model_path"])
        (self._folder / "config.json").write_bytes((model / "config.json").read_bytes())

    def send(self, tensors: NamedTensors, version: int) -> None:
        save_file({n: t.cpu().contiguous() for n, t in tensors}, self._file, metadata={"format": "pt"})

    def end(self, version: int) -> None:
        body = {"model_path": str(self._folder.resolve()), "weight_version": str(version), "flush_cache": True}
        self._endpoint.post("/update_weights_from_disk", body, self._timeout_s)

    def leave(self) -> None:
        """Nothing is held."""


class _Background(threading.Thread):
    """A call in a thread of its own that may outlive its caller's patience."""

    def __init__(self, call: Callable):
        super().__init__(daemon=True)
        self._call, self._value, self._error = call, None, None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised again by result()
            self._error = error

    def done(self) -> bool:
        return not self.is_alive()

    def result(self):
        if self._error is not None:
            raise self._error
        return self._value

    def wait_with(self, other_done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for this call and for `other_done`. A call that fails raises at once, whatever the other still waits for."""
        deadline = time.monotonic() + timeout_s
        while not (self.done() and other_done()):
            if self.done():
                self.result()
            if time.monotonic() > deadline:
                raise ServerError(f"{what} took more than rollout.sync_timeout_s={timeout_s:.0f} s")
            time.sleep(POLL_S)
        self.result()


def _buckets(tensors: NamedTensors, size: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Tensors gathered up to `size` bytes; a larger one travels alone."""
    bucket, filled = [], 0
    for name, tensor in tensors:
        if bucket and filled + tensor.nbytes > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, tensor))
        filled += tensor.nbytes
    if bucket:
        yield bucket


def _group_beside_the_default_one(backend: str, store, world: int, name: str, timeout_s: float, device) -> dist.ProcessGroup:
    """A group with processes outside of this job, as rank 0. torch's public new_group only splits the default group.

    The same call (and the same store prefix) as SGLang makes on its side.
    """
    group, _ = dist.distributed_c10d._new_process_group_helper(
        world,
        0,
        [],
        dist.Backend(backend),
        dist.PrefixStore(name, store),
        group_name=name,
        backend_options=None,
        timeout=timedelta(seconds=timeout_s),
        device_id=None if device.type == "cpu" else device,
    )
    dist.distributed_c10d._world.pg_group_ranks[group] = {i: i for i in range(world)}
    return group


def _require_one_rank(endpoint: Endpoint, timeout_s: float) -> None:
    info = endpoint.get("/server_info", timeout_s)
    sizes = {name: info.get(name, 1) for name in ("tp_size", "pp_size", "dp_size")}
    if any(size != 1 for size in sizes.values()):
        layout = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"rollout.server_args: weight sync needs an engine on one rank, {endpoint.url} runs with {layout}")


def _own_address(url: str, timeout_s: float) -> str:
    """The address of this host that an engine can reach: the one from which this host reaches the engine."""
    engine = urlsplit(url)
    try:
        with socket.create_connection((engine.hostname, engine.port or 80), timeout_s) as probe:
            return probe.getsockname()[0]
    except OSError as error:
        raise ServerError(f"{url}: {error}") from error


def listening_store(address: str, timeout_s: float) -> dist.TCPStore:
    """The store of a new group, listening at this address alone; by itself it would listen at every address of this host."""
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),  # the store's to close
    )
