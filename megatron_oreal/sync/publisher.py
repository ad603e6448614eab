"""The policy's weights into the engines: pause, send, prove, continue.

gather (tensors whole, in buckets) -> carry (buckets on their way while the next is gathered) -> deliver (broadcast, hand_over or disk)
-> prove (checksums). Every pipeline stage gathers its part, and its first rank sends it, all stages at the same time; for a hand-over
(rollout.sync=tensor) every rank beside an engine gets all parts, and hands them over there; over disk (rollout.sync=disk) each host's
copy follows what was written, before the host's engines load it.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines, EnginesGone
from megatron_oreal.errors import ServerError
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model import hf_weights
from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import Origin, WeightSender
from megatron_oreal.sync.chain import Chain
from megatron_oreal.sync.copies import Copies
from megatron_oreal.sync.prove import WrongWeights
from megatron_oreal.sync.room import Room
from megatron_oreal.sync.seating import Seating

ATTEMPTS = 4
"""Of a publication. Each but the first follows the loss of an engine, or one failure that nothing explains."""


class Sampling(Protocol):
    """Whoever asks the engines for answers between steps; rank 0's."""

    def quiet(self) -> None: ...

    def go_on(self, version: int) -> None: ...


class Publisher:
    """Collective over all ranks; `engines` is known to rank 0 alone (None elsewhere), which decides who gets the weights."""

    def __init__(
        self,
        config: TrainConfig | SftConfig,
        models: Models,
        ranks: Ranks,
        engines: Engines | None,
        memory_is_shared: bool = False,
        sampling: Sampling | None = None,
    ):
        """`memory_is_shared`: the engines give up the GPUs' memory while the models train. `sampling`: rank 0's, made quiet before."""
        self._config, self._models, self._ranks, self._engines = config.rollout, models, ranks, engines
        self._origin = self._origin_of(config)
        self._sender: WeightSender | None = None  # this rank's connection, where it sends
        self._memory_is_shared, self._sampling, self._room = memory_is_shared, sampling, Room(ranks.platform)
        self._seating = self._seat() if config.rollout.sync == "tensor" else None
        self._copies = self._copies_of(config) if config.rollout.sync == "disk" else None
        self._chain: Chain | None = None  # of the versions over this connection
        self._connected: list[Endpoint] = []
        self._builds_on = 0  # publications over this connection
        self._proof_s = 0.0  # of the publication in progress: what comparing checksums took

    def _origin_of(self, config: TrainConfig | SftConfig) -> Origin:
        stage, stages = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_world_size()
        turns = TicketLock(dist.HashStore() if stages == 1 else self._ranks.open_store(config.rollout.sync_timeout_s))
        folders = Path(config.run_dir) / "sync", Path(config.model.path)
        return Origin(_sender(stage), self._ranks.platform.device, turns, *folders, self._models.dims.groups)

    def _seat(self) -> Seating:
        known = self._ranks.share(self._engines.known if self._engines else None, list[Endpoint])
        return Seating(known, self._config, self._ranks)

    def _copies_of(self, config: TrainConfig | SftConfig) -> Copies:
        stages = parallel_state.get_pipeline_model_parallel_world_size()
        return Copies(config, self._ranks, self._engines, [_sender(stage) for stage in range(stages)])

    def make_room(self) -> bool:
        """Whether the engines have given up the GPUs' memory, and with it their weights, until the next publication.

        They all have when this returns, on every rank: none trains where an engine still holds its own.
        """
        if not self._memory_is_shared:
            return False
        if self._sampling:
            self._sampling.quiet()
        if self._engines:
            self._engines.sleep()
        self._ranks.barrier()
        self._room.wait()
        self._ranks.barrier()  # a message between GPUs is memory, too
        return True

    def publish(self, policy: Sequence[GPTModel], version: int) -> dict[str, float]:
        """As `bring_back`, between steps: nothing is being sampled meanwhile, and where the schedule has it so it goes on after it."""
        started = time.perf_counter()
        if self._sampling:
            self._sampling.quiet()
        published = self.bring_back(policy, version)
        if self._sampling:
            self._sampling.go_on(version)
        return published | {"time/sync": time.perf_counter() - started}

    def bring_back(self, policy: Sequence[GPTModel], version: int) -> dict[str, float]:
        """The engines have the policy's weights, proven by checksum, and are at `version` when this returns.

        An engine that is lost meanwhile is left out; one that is back takes part. Those that have the weights are in service after it.

        Raises:
            EnginesGone (on every rank): none is left.
            WrongWeights: an engine holds other weights than were sent.
            ServerError: an engine refuses or does not answer in time although it is well.
        """
        self._ranks.enter("sync")
        started = time.perf_counter()
        unexplained = 0
        self._proof_s = 0.0
        for attempt in range(1, ATTEMPTS + 1):
            engines = self._agree()
            failure = self._attempt(policy, version, engines)
            if self._nobody(failure):
                break
            unexplained += not self._lost(engines)
            if attempt == ATTEMPTS or unexplained > 1:
                self._give_up(failure)
            if failure:
                _warn_of_retry(attempt, failure)
        self._builds_on += 1
        if self._engines:
            self._engines.put_in_service(engines)
        self._ranks.platform.release_cached_memory()  # what the weights were gathered in
        metrics = {"time/sync": time.perf_counter() - started, "time/sync_proof": self._proof_s}
        return metrics | self._written() | {"policy/version": version, "sync/attempts": attempt}

    def _agree(self) -> list[Endpoint]:
        """The engines that are to get the weights, on every rank."""
        engines, gone = [], ""
        self._ranks.platform.release_cached_memory()  # engines on our own GPUs take theirs back now
        self._room.note_asleep()
        self._ranks.barrier()
        if self._engines:
            try:
                self._engines.wake()
                engines = self._engines.for_sync()
            except EnginesGone as error:
                gone = str(error)
        gone = self._ranks.share(gone, str)
        if gone:
            raise EnginesGone(gone)
        return self._ranks.share(engines, list[Endpoint])

    def _attempt(self, policy: Sequence[GPTModel], version: int, engines: list[Endpoint]) -> ServerError | None:
        """Why it failed on this rank; None where it did not. Ranks go on together, as far as none of them has failed."""
        steps = (
            partial(self._connect, engines),
            self._pause,
            partial(self._send, policy, version),
            partial(self._follow, version),
            partial(self._commit, version),
            self._prove,
            partial(self._resume, version),
        )
        for step in steps:
            failure = None
            try:
                step()
            except WrongWeights as error:
                if not (self._chain and self._builds_on):
                    raise
                failure = error  # the chain is at fault, or a copy that somebody touched: all weights, written anew, will tell
            except ServerError as error:
                failure = error
            if not self._nobody(failure):
                return failure
        return None

    def _nobody(self, failure: ServerError | None) -> bool:
        """Whether no rank failed."""
        return int(self._ranks.total(torch.tensor([int(failure is not None)]))) == 0

    def _connect(self, engines: list[Endpoint]) -> None:
        if engines == self._connected:
            return
        self.disconnect()
        self._chain = self._copies.begin(engines) if self._copies else None
        if self._ranks.is_sender or (self._seating and self._seating.at_work):
            gifts = self._seating.gifts(engines) if self._seating else None
            self._sender = WeightSender(engines, self._config, self._origin, gifts, self._ranks.is_sender, self._chain)
        self._connected, self._builds_on = engines, 0

    @property
    def _speaker(self) -> WeightSender | None:
        """The sender that speaks to the engines for all senders: rank 0's; None on other ranks."""
        return self._sender if self._ranks.conducts else None

    def _pause(self) -> None:
        if self._speaker:
            self._speaker.pause()

    def _send(self, policy: Sequence[GPTModel], version: int) -> None:
        tensors = hf_weights.export(policy, self._models.dims)
        if self._sender:
            self._sender.send(tensors, version)
        elif self._ranks.is_first_replica:
            for _ in tensors:  # takes part in the gathering over TP
                pass

    def _follow(self, version: int) -> None:
        if self._copies:
            self._copies.follow(version, self._builds_on)

    def _written(self) -> dict[str, float]:
        """Over all senders."""
        if not self._copies:
            return {}
        size, whole = self._ranks.total(torch.tensor(self._sender.written if self._sender else (0, False), dtype=torch.int64)).tolist()
        return {"sync/written_bytes": size, "sync/full": float(whole > 0)}

    def _commit(self, version: int) -> None:
        if self._speaker:
            self._speaker.commit(version)

    def _resume(self, version: int) -> None:
        if self._speaker:
            self._speaker.resume(version)

    def _prove(self) -> None:
        started, compared, held, answers, failure = time.perf_counter(), 0, 0, [], None
        try:
            answers = self._sender.checksums() if self._ranks.conducts else []
        except ServerError as error:
            failure = error
        answers = self._ranks.share(answers, list[dict])
        if failure:
            raise failure
        try:
            compared, held = self._sender.compare(answers) if self._sender and self._ranks.is_sender and answers else (0, 0)
        except WrongWeights as error:
            failure = error
        total = int(self._ranks.total(torch.tensor([compared], dtype=torch.int64)))
        nobody_failed = self._nobody(failure)
        self._proof_s = time.perf_counter() - started
        if failure:
            raise failure
        if nobody_failed and held and total != held:
            raise WrongWeights(f"weight sync: {total} tensors were sent, the engines hold {held}")

    def _lost(self, engines: list[Endpoint]) -> bool:
        """Whether an engine is to blame. All connections are given up first: an engine may wait in one for a lost one."""
        self.disconnect()
        self._ranks.barrier()
        lost = bool(self._engines.look(engines)) if self._engines else False
        return self._ranks.share(lost, bool)

    def _give_up(self, failure: ServerError | None) -> None:
        if failure:
            raise failure
        self._ranks.barrier()  # the rank that failed says why and ends the job

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Leave the groups with the engines."""
        sender, self._sender, self._connected = self._sender, None, []
        if sender:
            with suppress(ServerError):
                sender.disconnect()
        if self._copies:
            self._copies.end()


def _sender(stage: int) -> str:
    """Name of a stage's sender."""
    return f"stage{stage}"


def _warn_of_retry(attempt: int, failure: ServerError) -> None:
    print(f"warning: weight sync, attempt {attempt} of {ATTEMPTS} failed and is made again: {failure}", file=sys.stderr, flush=True)
