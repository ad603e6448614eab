"""The frozen starting model, from which the KL term counts."""

from collections.abc import Sequence
from pathlib import Path

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from megatron_oreal.learn import pipeline
from megatron_oreal.learn.batch import MicroBatch
from megatron_oreal.learn.host_memory.resting import Resting, storages
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model.cpu_mapping import MappedWeights


class Reference:
    """Gives log-probabilities, and never learns."""

    def __init__(self, chunks: Sequence[GPTModel], ranks: Ranks, run_dir: Path):
        """`run_dir`: on a CPU the weights are in a file there, which has no name."""
        self.chunks = [chunk.requires_grad_(False).eval() for chunk in chunks]
        self._platform = ranks.platform
        self._run_dir, self._resting = run_dir, None
        self._mapped = MappedWeights(self.chunks, run_dir) if ranks.platform.is_cpu else None

    def rest_between_turns(self) -> None:
        """Its weights are there for logprobs() alone from here on; on a CPU they were before."""
        if not self._mapped:
            weights = storages(p.data for chunk in self.chunks for p in chunk.parameters())
            self._resting = Resting([], weights, self._platform, self._run_dir)
            self._resting.rest()

    def logprobs(self, micro_batches: list[MicroBatch]) -> list[Tensor]:
        """Log-probabilities [R], one tensor a micro-batch (last stage)."""
        if self._mapped:
            self._platform.release_cached_memory()  # what the token RM's turn left in pieces: 1 GiB of a 0.5B model's
        if self._resting:
            self._resting.wake()
        values = pipeline.run(self.chunks, micro_batches, "logprobs", lambda _, out: (None, out[0]), backward=False)
        if self._resting:
            self._resting.rest(changed=False)
        if self._mapped:
            self._mapped.release()
            self._platform.release_cached_memory()  # the policy's turn: it finds the memory in one piece
        return values
