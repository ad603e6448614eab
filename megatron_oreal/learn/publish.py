"""The policy's weights into the engine: every pipeline stage exports its part, its first rank sends it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from megatron.core import parallel_state

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, Models
from megatron_oreal.model import hf_weights
from megatron_oreal.rollout.server import Endpoint, ServerError
from megatron_oreal.rollout.sync import WeightSync


class Publisher:
    """Collective over all ranks; `sync` is this rank's connection to the engine, None on ranks that send nothing."""

    def __init__(self, sync: WeightSync | None, models: Models, ranks: Ranks):
        self._sync, self._models, self._ranks = sync, models, ranks
        self._stage = parallel_state.get_pipeline_model_parallel_rank()
        self._stages = parallel_state.get_pipeline_model_parallel_world_size()

    def publish(self, policy: Trainable, version: int) -> dict[str, float]:
        """The engine has the policy's weights, proven by checksum, and is at `version` when this returns.

        Raises:
            ServerError: the engine refuses, does not answer in time, or holds other weights than were sent.
        """
        started = time.perf_counter()
        for turn in range(self._stages):  # the engine takes one sender at a time
            if turn == self._stage and self._ranks.is_first_replica:
                self._send(policy, version, opens=turn == 0, closes=turn == self._stages - 1)
            self._ranks.barrier()
        compared, held = self._sync.verify() if self._sync else (0, 0)
        total = int(self._ranks.total(torch.tensor([compared], dtype=torch.int64)))
        if held and total != held:
            raise ServerError(f"weight sync: {total} tensors were sent, the engine holds {held}")
        return {"time/sync": time.perf_counter() - started, "policy/version": version}

    def _send(self, policy: Trainable, version: int, opens: bool, closes: bool) -> None:
        tensors = hf_weights.export(policy.gpt, self._models.dims)
        if self._sync is None:
            for _ in tensors:  # takes part in the gathering over TP
                pass
            return
        if opens:
            self._sync.open()
        self._sync.send(tensors, version)
        if closes:
            self._sync.close(version)


@contextmanager
def open_publisher(config: TrainConfig, learner: Learner, endpoint: Endpoint, ranks: Ranks) -> Iterator[Publisher]:
    """Connect every stage's sender with the engine, one after the other; disconnect on the way out."""
    sync = None
    stage = parallel_state.get_pipeline_model_parallel_rank()
    for turn in range(parallel_state.get_pipeline_model_parallel_world_size()):
        if turn == stage and ranks.is_sender:
            folder = Path(config.run_dir) / "sync"
            sync = WeightSync(endpoint, config.rollout, f"stage{stage}", folder, ranks.platform.device)
        ranks.barrier()
    try:
        yield Publisher(sync, learner.models, ranks)
    finally:
        if sync:
            sync.disconnect()
