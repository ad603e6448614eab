"""Carry: one sender's way to the engines, the next bucket gathered while one is delivered.

Several processes may send at the same time (with pipeline parallelism each stage's first rank holds its own layers): each has a
WeightSender of its own. One of them pauses the engines before the others send, and lets them go on when all have sent.
"""

import queue
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_oreal.engines.calls import Background, post_all
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.broadcast import Broadcast, TicketLock
from megatron_oreal.sync.chain import Chain
from megatron_oreal.sync.deliver import Delivery
from megatron_oreal.sync.disk import Disk
from megatron_oreal.sync.gather import Bucket, buckets
from megatron_oreal.sync.hand_over import Gift, HandOver
from megatron_oreal.sync.prove import EngineChecksums, WrongWeights

NamedTensors = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Origin:
    """Who sends, and what it has for that; the same for all connections."""

    name: str  # unique among the processes that send to these engines
    device: torch.device
    turns: TicketLock  # shared by them
    folder: Path  # for the way over disk
    model: Path  # where the policy started from
    kv_heads: int  # of the model


class WeightSender:
    """One sender's connection to the engines. Names are Hugging Face's, tensors whole."""

    def __init__(
        self,
        engines: Sequence[Endpoint],
        config: RolloutConfig,
        origin: Origin,
        gifts: Sequence[Gift] | None = None,
        proves: bool = True,
        chain: Chain | None = None,
    ):
        """`gifts`: what this rank has of a hand-over; None: all of it. `proves`: hashes what it sends. `chain`: of the hosts' copies, for
        the way over disk; None: the engines read the origin's folder themselves.

        Raises:
            ValueError: an engine's layout has no checksums that this side can compute, or the way does not lead to it.
            ServerError: one refuses, or does not answer or join within rollout.sync_timeout_s.
        """
        self._engines, self._timeout_s, self._kv_heads, self._keep_cache = (
            engines,
            config.sync_timeout_s,
            origin.kv_heads,
            config.keep_cache,
        )
        self._bucket_bytes = config.sync_bucket_mb * 2**20
        self._sizes, self._proves = [tp_size(engine, config.sync_timeout_s) for engine in engines if proves], proves
        self._delivery: Delivery
        if config.sync == "distributed":
            self._delivery = Broadcast(engines, self._sizes, config, origin.name, origin.device, origin.turns)
        elif config.sync == "tensor":
            if gifts is None:
                gifts = [Gift(engine, list(range(size)), size) for engine, size in zip(engines, self._sizes, strict=True)]
            self._delivery = HandOver(engines, gifts, config, origin.device)
        else:
            self._delivery = Disk(engines, config, origin.name, origin.folder, origin.model, chain)
        self._sent: dict[int, EngineChecksums] = {}  # TP size -> what engines of that size must hold

    def pause(self) -> None:
        """No request runs when this returns, and every engine has agreed to the update. Unless rollout.keep_cache says so, nothing of the
        old weights is cached.
        """
        post_all(self._engines, "/pause_generation", self._timeout_s, {"mode": "retract"})
        if not self._keep_cache:
            post_all(self._engines, "/flush_cache", self._timeout_s)
        self._delivery.begin()

    def send(self, tensors: NamedTensors, version: int) -> None:
        """Send this sender's tensors, after pause() and before commit() by whichever sender.

        Double-buffered: one is hashed, and the next gathered, while it is on its way. After a failure the rest of `tensors` is
        consumed all the same, because gathering them is the work of several ranks.
        """
        self._sent = {size: EngineChecksums(size, self._kv_heads) for size in set(self._sizes)}
        sending = _Sending(self._delivery, version)
        parcels = iter(self._delivery.parcels(buckets(tensors, self._bucket_bytes // self._delivery.shared_by)))
        try:
            for parcel, own in parcels:
                sending.put(parcel)
                self._note(own)  # hashed on its way
        except ServerError:
            for _ in parcels:
                pass
            raise
        finally:
            sending.finish()
        sending.result()
        self._delivery.finish(version)

    def _note(self, bucket: Bucket) -> None:
        for checksums in self._sent.values() if self._proves else ():
            for name, tensor in bucket:
                checksums.note(name, tensor)

    @property
    def written(self) -> tuple[int, bool] | None:
        """See Delivery."""
        return self._delivery.written

    def commit(self, version: int) -> None:
        """All senders have sent all: the engines hold this version."""
        self._delivery.end(version)

    def resume(self, version: int) -> None:
        """The engines serve the new weights from here on."""
        body = {"new_version": str(version), "abort_all_requests": False}
        post_all(self._engines, "/update_weight_version", self._timeout_s, body)
        post_all(self._engines, "/continue_generation", self._timeout_s)

    def checksums(self) -> list[dict]:
        """What each engine says of the weights that it holds; one sender asks for all, it costs the engines a pass over them.

        Raises:
            ServerError: no answer.
        """
        return post_all(self._engines, "/weights_checker", self._timeout_s, {"action": "checksum"})

    def compare(self, answers: list[dict]) -> tuple[int, int]:
        """Compare the engines' checksums with those of what this sender sent last.

        Returns (tensors compared, tensors that an engine holds): over all senders the former must sum to the latter.

        Raises:
            WrongWeights: naming the first tensor that differs or that an engine does not have.
        """
        counts = {self._sent[size].compare(a, e) for e, size, a in zip(self._engines, self._sizes, answers, strict=True)}
        if len(counts) > 1:
            raise WrongWeights(f"weight sync: the engines hold {', '.join(str(held) for _, held in sorted(counts))} tensors, not the same")
        return counts.pop()

    def disconnect(self) -> None:
        """Leave the group with the engines."""
        self._delivery.leave()


class _Sending(Background):
    """Sends one parcel while the caller makes the next."""

    def __init__(self, delivery: Delivery, version: int):
        self._delivery, self._version = delivery, version
        self._next: queue.Queue = queue.Queue(maxsize=1)
        self._device = torch.cuda.current_device() if torch.cuda.is_available() else None
        super().__init__(self._send_all)

    def _send_all(self) -> None:
        if self._device is not None:
            torch.cuda.set_device(self._device)
        while (parcel := self._next.get()) is not None:
            self._delivery.send(parcel, self._version)

    def put(self, parcel) -> None:
        """Raises what the thread raised."""
        if self._device is not None:
            torch.cuda.current_stream().synchronize()  # the thread works on a stream of its own
        while True:
            try:
                return self._next.put(parcel, timeout=0.1)
            except queue.Full:
                if self.done():
                    self.result()

    def finish(self) -> None:
        """Return when all is sent, or has failed; each parcel has a deadline of its own."""
        while not self.done():
            try:
                self._next.put(None, timeout=0.05)
                break
            except queue.Full:
                continue
        self.join()


def tp_size(endpoint: Endpoint, timeout_s: float) -> int:
    """Of an engine, as it says itself. Raises ValueError where it is split in another way as well, or cannot load weights again."""
    info = endpoint.get("/server_info", timeout_s)
    sizes = {name: info.get(name, 1) for name in ("pp_size", "dp_size")}
    if any(size != 1 for size in sizes.values()):
        layout = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(f"rollout.server_args: weight sync needs engines with tensor parallelism alone, {endpoint.url} has {layout}")
    if info.get("quantization"):
        # SGLang 0.5.21, layers/quantization/fp8.py: another shape after loading, and no way back.
        raise ValueError(f"{endpoint.url} has quantized its weights ({info['quantization']}): SGLang cannot load new ones into those")
    return info.get("tp_size", 1)
