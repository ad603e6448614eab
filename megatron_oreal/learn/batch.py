"""A rank's samples as micro-batches (see packing for which those are): packed end to end, turned into tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.packing import Cost, partition
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model.gpt import Reading
from megatron_oreal.model.split import Split
from megatron_oreal.oreal.token_weights import response_positions
from megatron_oreal.trajectory import Sample


@dataclass(frozen=True)
class MicroBatch:
    """Trajectories packed end to end, T tokens of which this rank holds T/cp; R response tokens of n trajectories."""

    index: int  # its place among the rank's micro-batches
    tokens: Tensor  # [1, T/cp] int64
    packed: PackedSeqParams  # where each trajectory starts and ends among the T tokens; padding is a sequence of its own
    logprobs: Reading  # where the next-token distributions of the response tokens are read
    scores: Reading  # where the token-RM scores of the response tokens are read
    lengths: list[int]  # [n] response tokens of each trajectory, R in all
    rewards: Tensor  # [n] of +1 / -1
    advantages: Tensor  # [n] float32
    pass_rates: Tensor  # [n] float32
    rollout_logprobs: Tensor  # [R] float32, the engine's of the response tokens; NaN where not known
    rollout_versions: Tensor  # [R] int64, of the policy that sampled the token
    members: list[int] = field(default_factory=list)  # [n] their places in the global batch


def of_rank(
    samples: Sequence[Sample],
    ranks: Ranks,
    parallel: ParallelConfig,
    budget: int,
    cost: Cost,
    tokens_multiple: int,
    score_position: str,
) -> list[MicroBatch]:
    """This data-parallel rank's micro-batches of a global batch. Every rank finds the same from the whole batch.

    `budget`: most tokens of a micro-batch; `tokens_multiple`: each rank's part is padded to a multiple of it.
    """
    sequence_ranks = parallel.tp if parallel.sequence_parallel else 1
    split = Split(parallel.cp, parallel_state.get_context_parallel_rank(), sequence_ranks, tokens_multiple)
    lengths = [split.padded(s.length) for s in samples]
    spread = partition(lengths, ranks.dp, budget, cost, multiple_of=parallel.pp if parallel.vpp else 1)[ranks.dp_rank]
    # An interleaved pipeline wants micro-batches of one length, besides whole rounds of them.
    at_least = max(sum(lengths[i] for i in indices) for indices in spread) if parallel.vpp else 0
    return [
        replace(pack([samples[i] for i in indices], number, split, score_position, ranks.platform.device, at_least), members=indices)
        for number, indices in enumerate(spread)
    ]


def pack(samples: Sequence[Sample], index: int, split: Split, score_position: str, device: torch.device, at_least: int = 0) -> MicroBatch:
    """One micro-batch of `at_least` so many tokens. No samples give padding alone: it takes part in every collective, adds nothing."""
    tokens: list[int] = []
    bounds = [0]
    logprobs, scores = _ReadingLists(), _ReadingLists()
    for s in samples:
        sequence = s.prompt_ids + s.response_ids
        sequence += [0] * (split.padded(len(sequence)) - len(sequence))
        mine = split.mine(len(sequence))
        for reading, position in ((logprobs, "previous"), (scores, score_position)):
            wanted = response_positions(len(s.prompt_ids), len(s.response_ids), position)
            reading.add(wanted, s.response_ids, mine, start=len(tokens))
        tokens += [sequence[i] for i in mine]
        bounds.append(bounds[-1] + len(sequence))
    wanted_total = max(bounds[-1], at_least, 1)
    padding = wanted_total + -wanted_total % split.total_multiple - bounds[-1]
    if padding:
        tokens += [0] * (padding // split.cp)
        bounds.append(bounds[-1] + padding)

    def floats(values):
        return torch.tensor(values, dtype=torch.float32, device=device)

    return MicroBatch(
        index=index,
        tokens=torch.tensor(tokens, dtype=torch.int64, device=device)[None],
        packed=_packed_params(bounds, device),
        logprobs=logprobs.tensors(device),
        scores=scores.tensors(device),
        lengths=[len(s.response_ids) for s in samples],
        rewards=floats([s.reward for s in samples]),
        advantages=floats([s.advantage for s in samples]),
        pass_rates=floats([s.pass_rate for s in samples]),
        rollout_logprobs=floats([value for s in samples for value in s.logprobs or [float("nan")] * len(s.response_ids)]),
        rollout_versions=torch.tensor([version for s in samples for version in _versions(s)], dtype=torch.int64, device=device),
    )


def _versions(sample: Sample) -> list[int]:
    """[response tokens] of the policy that sampled each."""
    earlier = [span.version for span in sample.earlier for _ in range(span.tokens)]
    return earlier + [sample.version] * (len(sample.response_ids) - len(earlier))


class _ReadingLists:
    """A Reading in the making."""

    def __init__(self):
        self.positions, self.targets, self.places, self.total = [], [], [], 0

    def add(self, wanted: range, targets: list[int], mine: list[int], start: int) -> None:
        """The wanted positions of one sequence, of which this rank holds `mine`, its first token standing at `start`."""
        held = {position: place for place, position in enumerate(mine)}
        for place, (position, target) in enumerate(zip(wanted, targets, strict=True)):
            if position in held:
                self.positions.append(start + held[position])
                self.targets.append(target)
                self.places.append(self.total + place)
        self.total += len(targets)

    def tensors(self, device: torch.device) -> Reading:
        lists = (self.positions, self.targets, self.places)
        return Reading(*(torch.tensor(values, dtype=torch.int64, device=device) for values in lists), self.total)


def _packed_params(bounds: list[int], device: torch.device) -> PackedSeqParams:
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
    longest = max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
    return PackedSeqParams(qkv_format="thd", cu_seqlens_q=cu_seqlens, cu_seqlens_kv=cu_seqlens, max_seqlen_q=longest, max_seqlen_kv=longest)
