"""The policy's weights into the engines: every pipeline stage exports its part, its first rank sends it."""

import time

from megatron.core import parallel_state

from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model import hf_weights
from megatron_oreal.rollout.sync import WeightSync


class Publisher:
    """Collective over all ranks; `sync` is this rank's connection to the engine, None on ranks that send nothing."""

    def __init__(self, sync: WeightSync | None, models: Models, ranks: Ranks):
        self._sync, self._models, self._ranks = sync, models, ranks

    def publish(self, policy: Trainable, version: int) -> dict[str, float]:
        """Every engine has the policy's weights, proven by checksum, and is at `version` when this returns."""
        started = time.perf_counter()
        stage, stages = parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_world_size()
        for turn in range(stages):
            if turn == stage and self._ranks.dp_rank == 0:
                self._send(policy, version, first=turn == 0, last=turn == stages - 1)
            self._ranks.barrier()
        return {"time/sync": time.perf_counter() - started, "policy/version": version}

    def _send(self, policy: Trainable, version: int, first: bool, last: bool) -> None:
        tensors = hf_weights.export(policy.gpt, self._models.dims)
        if self._sync is None:
            for _ in tensors:  # takes part in the gathering over TP
                pass
            return
        raise NotImplementedError(first, last, version)
