"""Ranks: who am I, which groups do I belong to, and how rank 0 hands a batch to everyone."""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from megatron_oreal.errors import LostPeer, ServerError
from megatron_oreal.launcher import Placement
from megatron_oreal.learn import megatron_cpu
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.meeting import Met, listening_store, meet
from megatron_oreal.learn.watch import LEAVE_S, Watch, end_within, leave_within
from megatron_oreal.machine import give_back_what_is_freed
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.ranges import StageRanges
from megatron_oreal.network import LOCALHOST

T = TypeVar("T")
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # as gloo and NCCL put it


class Ranks:
    """The process groups of a job. One object a process, used as a context manager or ended with stop()."""

    def __init__(self, config: ParallelConfig, seed: int, stacks: Path | None = None):
        """Join the job and build the groups. With `stacks`, a folder, ranks also watch each other (see Watch).

        Raises:
            ValueError: the world size does not fit the layout, or the ranks cannot meet as the environment says.
            LostPeer: some rank does not come, or is lost before all groups are built.
        """
        self.placement = Placement.detect()
        self.dp = config.data_parallel(self.placement.world_size)
        self.layout = f"tp{config.tp}-pp{config.pp}-vpp{config.vpp or 1}-cp{config.cp}-dp{self.dp}"
        self.platform = Platform.detect(self.placement.local_rank)
        self.ranges = StageRanges(self.platform)
        megatron_cpu.install()
        if self.platform.is_cpu:
            _share_cores()
            give_back_what_is_freed()
        else:  # in one queue a message that was asked for first also starts before the product that it is to overlap with
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
            torch.cuda.set_device(self.platform.device)
        met = _meet(self.placement, config.timeout_s)
        self._address = met.address
        self._watched = bool(stacks) and self.placement.world_size > 1
        self._watch = self._open_watch(met.store, stacks, config.lost_after_s) if self._watched else None
        try:
            self._build_groups(met.store, config, seed)
        except Exception as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _build_groups(self, store: dist.Store, config: ParallelConfig, seed: int) -> None:
        world, timeout = self.placement.world_size, timedelta(seconds=config.timeout_s)
        if not dist.is_initialized():
            dist.init_process_group(self.platform.backend, store=store, rank=self.placement.rank, world_size=world, timeout=timeout)
        parallel_state.initialize_model_parallel(
            config.tp,
            config.pp,
            virtual_pipeline_model_parallel_size=config.vpp,
            context_parallel_size=config.cp,
            distributed_timeout_minutes=config.timeout_s / 60,
            create_gloo_process_groups=False,
        )
        # Waits here may last a whole rollout: apart from the data plane, and always on the CPU.
        self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=config.control_timeout_s))
        tensor_parallel.model_parallel_cuda_manual_seed(seed, inference_rng_tracker=True, force_reset_rng=True)
        torch.manual_seed(seed)

    def _open_watch(self, met: dist.Store, stacks: Path, lost_after_s: float) -> Watch:
        """In a store of its own, which goes with rank 0; torchrun's would stay."""
        if self.conducts:
            store = listening_store(self._address, lost_after_s)
            met.set("watch", str(store.port))
        else:
            store = dist.TCPStore(self._address, int(met.get("watch")), is_master=False, timeout=timedelta(seconds=lost_after_s))
        watch = Watch(self.placement.rank, self.placement.world_size, store, stacks, lost_after_s)
        watch.start()
        return watch

    def open_store(self, timeout_s: float) -> dist.Store:
        """A store in which all ranks meet beside their groups; rank 0 keeps it. Collective."""
        store = listening_store(self._address, timeout_s) if self.conducts else None
        port = self.share(store.port if store else None, int)
        return store or dist.TCPStore(self._address, port, is_master=False, timeout=timedelta(seconds=timeout_s))

    def enter(self, stage: str) -> None:
        """What this rank does from here on: for the clock, profilers, and the message should it be lost."""
        self.ranges.enter(stage)
        if self._watch:
            self._watch.enter(stage)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Leave the job. After an error the others are told of it; where a connection broke, whoever broke it is named.

        Raises:
            LostPeer: a connection broke, and nobody is known to be gone.
        """
        if error is None:
            self.stop()
            return
        if _is_lost_peer(error):
            if self._watch:
                self._watch.wait_for_verdict()
            self._leave_soon()
            raise LostPeer(f"lost another rank ({str(error).splitlines()[0][:120]})") from error
        elif self._watch and isinstance(error, Exception):
            self._watch.failed(error)
        self._leave_soon()

    def _leave_soon(self) -> None:
        if self._watched:
            leave_within(LEAVE_S)

    @property
    def conducts(self) -> bool:
        """Rank 0: prompts, servers, verification and selection happen here."""
        return self.placement.rank == 0

    @property
    def dp_rank(self) -> int:
        return parallel_state.get_data_parallel_rank()

    @property
    def is_sender(self) -> bool:
        """First rank of its pipeline stage: holds the stage's whole weights after an export and passes them on."""
        return parallel_state.get_tensor_model_parallel_rank() == 0 and self.is_first_replica

    @property
    def is_first_replica(self) -> bool:
        """One of the ranks that together hold every weight exactly once (per pipeline stage and TP rank)."""
        return parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0

    def share(self, value: T | None, kind: type[T]) -> T:
        """Rank 0's value on every rank, over the control group (msgpack: nothing is unpickled)."""
        size = torch.zeros(1, dtype=torch.int64)
        payload = torch.empty(0, dtype=torch.uint8)
        if self.conducts:
            payload = torch.frombuffer(bytearray(msgspec.msgpack.encode(value)), dtype=torch.uint8)
            size[0] = len(payload)
        dist.broadcast(size, src=0, group=self._control)
        if not self.conducts:
            payload = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(payload, src=0, group=self._control)
        return value if self.conducts else msgspec.msgpack.decode(payload.numpy().tobytes(), type=kind)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a CPU tensor over all ranks."""
        dist.all_reduce(values, group=self._control)
        return values

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """Element by element the maximum of a CPU tensor over all ranks."""
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._control)
        return values

    @property
    def reports(self) -> bool:
        """One of the ranks, one a data-parallel replica, that report what the last stage knows: the others know nothing, or the same."""
        return (
            parallel_state.is_pipeline_last_stage()
            and parallel_state.get_tensor_model_parallel_rank() == 0
            and parallel_state.get_context_parallel_rank() == 0
        )

    def rows(self, mine: torch.Tensor) -> torch.Tensor:
        """[n, k] on the CPU, n its own on each rank -> the rows of all ranks, in rank order."""
        counts = torch.zeros(self.placement.world_size, dtype=torch.int64)
        counts[self.placement.rank] = len(mine)
        ends = self.total(counts).cumsum(0)
        whole = mine.new_zeros(int(ends[-1]), mine.shape[1])
        end = int(ends[self.placement.rank])
        whole[end - len(mine) : end] = mine
        return self.total(whole)

    def hosts(self) -> tuple[int, int]:
        """(number of hosts, which of them this rank is on, from 0). Collective."""
        first = torch.zeros(self.placement.world_size, dtype=torch.int64)
        first[self.placement.rank] = self.placement.local_rank == 0
        firsts = self.total(first)
        return int(firsts.sum()), int(firsts[: self.placement.rank + 1].sum()) - 1

    def barrier(self) -> None:
        """Wait for every rank, with the control group's deadline."""
        dist.barrier(group=self._control)

    def stop_watching(self) -> None:
        """From here on each rank may end when it likes, and none is missed. Collective."""
        watch, self._watch = self._watch, None
        if watch:
            self.barrier()
            watch.stop()
            with suppress(RuntimeError):  # nobody's store goes while others still look into it; but nothing is lost any more with a rank
                dist.barrier(group=self._control, async_op=True).wait(timedelta(seconds=LEAVE_S))

    def stop(self) -> None:
        """Leave the job in order; all ranks do."""
        self.stop_watching()
        rank = self.placement.rank
        deadline = end_within(LEAVE_S, f"error (rank {rank}): lost another rank when all was done: it hangs, or its host is down")
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        deadline.cancel()


def own_cores() -> int:
    """A rank's: srun gives a task cores of its own; torchrun and our launcher do not, but say how many ranks there are."""
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def _share_cores() -> None:
    """A rank's threads are its part of the host's cores, unless OMP_NUM_THREADS says otherwise: all cores for each would be slower."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(own_cores())


def _meet(placement: Placement, timeout_s: float) -> Met:
    if placement.world_size > 1 and not dist.is_initialized():
        return meet(placement, timeout_s)
    return Met(dist.HashStore(), os.environ.get("MASTER_ADDR", LOCALHOST) if placement.world_size > 1 else LOCALHOST)


def _is_lost_peer(error: BaseException) -> bool:
    """Whether a connection between ranks broke. One with an engine is another matter, whose error may say the same words."""
    return isinstance(error, Exception) and not isinstance(error, ServerError) and any(words in str(error) for words in LOST_PEER)
