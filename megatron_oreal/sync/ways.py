"""How tensors travel to the engines: the three ways of rollout.sync. Every HTTP status is looked at; every wait has a deadline."""

import os
import secrets
import shutil
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Thread
from typing import Protocol

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from megatron_oreal.engines.server import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.model.hf_files import TensorSpec
from megatron_oreal.model.hf_writer import ShardWriter
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.stores import Turns, is_on_this_host, listening_store, own_address

POLL_S = 0.0005
BEGUN_S = 5.0
"""For enqueueing a bucket's broadcasts; NCCL may hang in it where an engine is lost, and is aborted then, see Broadcast.leave()."""
Bucket = Sequence[tuple[str, Tensor]]


class Way(Protocol):
    """One sender's way to all engines. Between begin of the first and end of the last sender the engines serve nothing."""

    def begin(self) -> None: ...

    def send(self, bucket: Bucket, version: int) -> None: ...

    def end(self, version: int) -> None: ...

    def leave(self) -> None: ...


class Broadcast:
    """Buckets over one gloo or NCCL group of the sender and all ranks of all engines.

    An engine takes one bucket at a time, and all of a group's members must take the same one: senders take turns by the bucket.
    """

    def __init__(
        self, engines: Sequence[Endpoint], sizes: Sequence[int], config: RolloutConfig, sender: str, device: torch.device, turns: Turns
    ):
        """`sizes`: TP size of each engine."""
        self._engines, self._device, self._timeout_s, self._turns = engines, device, config.sync_timeout_s, turns
        self._flattens = device.type != "cpu"  # one large message; on CPU a copy on each side costs more than many messages (measured: 2x)
        self._name = f"megatron_oreal_{sender}_{secrets.token_hex(4)}"  # an engine may still have the group of a run that was killed
        self._group = self._join(sizes, "gloo" if device.type == "cpu" else "nccl")

    def _join(self, sizes: Sequence[int], backend: str) -> dist.ProcessGroup:
        with self._turns.turn(self._timeout_s):  # joining blocks an engine until all others join the same group
            return self._join_now(sizes, backend)

    def _join_now(self, sizes: Sequence[int], backend: str) -> dist.ProcessGroup:
        far = next((e for e in self._engines if not is_on_this_host(e.url, self._timeout_s)), self._engines[0])
        address = own_address(far.url, self._timeout_s)  # the one that engines on other hosts reach as well
        store = listening_store(address, self._timeout_s)
        world = 1 + sum(sizes)
        common = {"master_address": address, "master_port": store.port, "world_size": world, "group_name": self._name, "backend": backend}
        bodies = [common | {"rank_offset": 1 + sum(sizes[:index])} for index in range(len(sizes))]
        invitation = Background(partial(post_all, self._engines, "/init_weights_update_group", self._timeout_s, bodies))
        joining = Background(partial(_group_beside_the_default_one, backend, store, world, self._name, self._timeout_s))
        invitation.wait_with(joining.done, self._timeout_s, "joining the weight-update group")
        return joining.result()

    def begin(self) -> None:
        begin_update(self._engines, self._timeout_s)

    def send(self, bucket: Bucket, version: int) -> None:
        """Returns when the engines have loaded the bucket: while one loads it takes no other, whoever sends."""
        body = {
            "names": [name for name, _ in bucket],
            "dtypes": [str(t.dtype).removeprefix("torch.") for _, t in bucket],
            "shapes": [list(t.shape) for _, t in bucket],
            "group_name": self._name,
            "load_format": "flattened_bucket" if self._flattens else None,
            "flush_cache": False,
            "weight_version": str(version),
        }
        pieces = [flattened(bucket).to(self._device)] if self._flattens else [t.detach().contiguous() for _, t in bucket]
        failure = None
        with self._turns.turn(self._timeout_s):
            try:
                self._broadcast(pieces, body)
            except RuntimeError as error:  # a ServerError is one as well
                failure = error if isinstance(error, ServerError) else ServerError(f"broadcasting weights: {error}")
        if failure:
            # Without the frames that it came through: they hold the group, and who keeps the error would keep its connections, see leave().
            failure.__traceback__ = failure.__context__ = failure.__cause__ = None
            raise failure

    def _broadcast(self, pieces: Sequence[Tensor], body: dict) -> None:
        answers = Background(partial(post_all, self._engines, "/update_weights_from_distributed", self._timeout_s, body))
        works: list[dist.Work] = []
        # In a thread: NCCL connects at the first broadcast, and would wait there for an engine that refused the call.
        begun = Background(partial(_broadcast_all, pieces, self._group, works))
        try:
            answers.wait_with(lambda: begun.done() and all(w.is_completed() for w in works), self._timeout_s, "broadcasting weights")
            begun.result()
            for work in works:
                work.wait()
        finally:
            begun.join(BEGUN_S)  # where an engine refuses at once it is still at it, and would hold the group

    def end(self, version: int) -> None:
        post_all(self._engines, "/end_weight_update", self._timeout_s)

    def leave(self) -> None:
        """Closes the connections. An engine may be waiting in a broadcast that a lost one broke off: only that frees it.

        gloo closes them when nobody holds the group any more, not before: no call under way, no traceback may.
        """
        group, self._group = self._group, None
        calls = Background(partial(post_all, self._engines, "/destroy_weights_update_group", 10, {"group_name": self._name}))
        if self._device.type != "cpu":
            group.abort()  # NCCL's destruction would wait for a broadcast that never ends
        dist.destroy_process_group(group)
        del group
        calls.join(10)


def _broadcast_all(pieces: Sequence[Tensor], group: dist.ProcessGroup, works: list[dist.Work]) -> None:
    for piece in pieces:
        works.append(dist.broadcast(piece, src=0, group=group, async_op=True))


class HandOver:
    """Tensors to engines on this host by handles of the sender's memory: CUDA's where CUDA is (CUDA IPC), on CPU of shared memory.

    The payload is in SGLang's form, a pickle that SGLang reads with a list of allowed types.
    """

    def __init__(self, engines: Sequence[Endpoint], sizes: Sequence[int], config: RolloutConfig, device: torch.device):
        """Raises ValueError where an engine runs on another host."""
        self._engines, self._sizes, self._device, self._timeout_s = engines, sizes, device, config.sync_timeout_s
        self._flat = torch.empty(0, dtype=torch.uint8)  # on CPU: kept from bucket to bucket, making its pages costs more than filling them
        for engine in engines:
            if not is_on_this_host(engine.url, config.sync_timeout_s):
                raise ValueError(f"rollout.sync=tensor needs engines on the sender's host, {engine.url} is not: use distributed")

    def begin(self) -> None:
        begin_update(self._engines, self._timeout_s)

    def send(self, bucket: Bucket, version: int) -> None:
        """Returns when the engines have copied what it holds."""
        views = self._placed(bucket)
        bodies = [
            {
                "serialized_named_tensors": [_handles(views) for _ in range(size)],  # each can be opened once
                "flush_cache": False,
                "weight_version": str(version),
            }
            for size in self._sizes
        ]
        post_all(self._engines, "/update_weights_from_tensor", self._timeout_s, bodies)

    def _placed(self, bucket: Bucket) -> Bucket:
        """The same tensors as views of one piece of memory that can be handed over."""
        size = sum(t.nbytes for _, t in bucket)
        if self._device.type == "cuda":
            from sglang.srt.utils.patch_torch import monkey_patch_torch_reductions

            monkey_patch_torch_reductions()  # a device is named by its UUID: its number differs from process to process
            flat = torch.empty(size, dtype=torch.uint8, device=self._device)
        else:
            if self._flat.nbytes < size:
                with _shared_by_name():
                    self._flat = torch.empty(size, dtype=torch.uint8).share_memory_()
            flat = self._flat
        views, start = [], 0
        for name, t in bucket:
            views.append((name, flat[start : start + t.nbytes].view(t.dtype).view(t.shape)))
            views[-1][1].copy_(t.detach())
            start += t.nbytes
        return views

    def end(self, version: int) -> None:
        post_all(self._engines, "/end_weight_update", self._timeout_s)

    def leave(self) -> None:
        """Gives the memory back."""
        self._flat = torch.empty(0, dtype=torch.uint8)


def _handles(views: Bucket) -> str:
    """What one rank of an engine opens them with."""
    with _shared_by_name():
        return b64encode(ForkingPickler.dumps(views)).decode()


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Shared memory of the CPU has a name that any process can open; torch's default is a descriptor, for which the engine would ask us.

    torch starts a process of its own for that, which stays as long as an engine does: it must not hold our stderr open.
    """
    strategy = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    inherited = os.get_inheritable(2)
    os.set_inheritable(2, False)
    try:
        yield
    finally:
        os.set_inheritable(2, inherited)
        torch.multiprocessing.set_sharing_strategy(strategy)


class Disk:
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


def post_all(engines: Sequence[Endpoint], path: str, timeout_s: float, bodies: dict | list[dict] | None = None) -> list:
    """The same control call to all engines at once, with one body for all or one for each; their answers in order.

    Raises:
        ServerError: of the first that refuses or does not answer in time; as soon as it does, whatever the others still wait for.
    """
    bodies = bodies if isinstance(bodies, list) else [bodies] * len(engines)
    calls = [Background(partial(engine.post, path, body, timeout_s)) for engine, body in zip(engines, bodies, strict=True)]
    pending = set(calls)
    while pending:
        for call in [c for c in pending if c.done()]:
            pending.discard(call)
            call.result()
        time.sleep(POLL_S)
    return [call.result() for call in calls]


def begin_update(engines: Sequence[Endpoint], timeout_s: float) -> None:
    """Open an update on all engines; one that an earlier sender began and never ended is ended first."""
    for engine in engines:
        try:
            engine.post("/begin_weight_update", timeout_s=timeout_s)
        except ServerError as error:
            if "already open" not in str(error):
                raise
            engine.post("/end_weight_update", timeout_s=timeout_s)
            engine.post("/begin_weight_update", timeout_s=timeout_s)


def flattened(bucket: Bucket) -> Tensor:
    """[bytes of all] uint8."""
    return torch.cat([t.contiguous().flatten().view(torch.uint8) for _, t in bucket])


def buckets(tensors: Iterable[tuple[str, Tensor]], size: int) -> Iterable[list[tuple[str, Tensor]]]:
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


class Background(Thread):
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
        finally:
            self._call = None  # what it holds may be waited for to be let go, see Broadcast.leave()

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


def _group_beside_the_default_one(backend: str, store, world: int, name: str, timeout_s: float) -> dist.ProcessGroup:
    """A group with processes outside of this job, as rank 0. torch's public new_group only splits the default group.

    The same call (and the same store prefix) as SGLang makes on its side. NCCL's own deadline ends the whole process: ours come first.
    """
    group, _ = dist.distributed_c10d._new_process_group_helper(
        world,
        0,
        [],
        dist.Backend(backend),
        dist.PrefixStore(name, store),
        group_name=name,
        backend_options=None,
        timeout=timedelta(seconds=timeout_s if backend == "gloo" else 10 * timeout_s),
    )
    dist.distributed_c10d._world.pg_group_ranks[group] = {i: i for i in range(world)}
    return group
