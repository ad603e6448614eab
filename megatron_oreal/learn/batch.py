"""Samples into micro-batches: spread over data-parallel ranks, packed end to end, turned into tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_oreal.config import ParallelConfig
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.oreal import response_positions
from megatron_oreal.trajectory import Sample


def plan(lengths: Sequence[int], dp: int, budget: int) -> list[list[list[int]]]:
    """Which samples go into which micro-batch of which rank: plan[rank][micro-batch] -> sample indices.

    Every sample lies in exactly one micro-batch, no micro-batch exceeds the token budget, and all ranks have the same number
    of micro-batches (some may be empty). Longest first onto the rank with the fewest tokens, then first fit.

    Raises:
        ValueError: a sample longer than the budget.
    """
    ranks: list[list[int]] = [[] for _ in range(dp)]
    load = [0] * dp
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
            raise ValueError(f"a trajectory of {lengths[index]} tokens exceeds learn.tokens_per_micro_batch={budget}")
        rank = load.index(min(load))
        ranks[rank].append(index)
        load[rank] += lengths[index]
    packed = [_first_fit(indices, lengths, budget) for indices in ranks]
    count = max(1, *(len(p) for p in packed))
    return [p + [[] for _ in range(count - len(p))] for p in packed]


def _first_fit(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    bins: list[list[int]] = []
    free: list[int] = []
    for index in indices:
        slot = next((i for i, room in enumerate(free) if room >= lengths[index]), None)
        if slot is None:
            bins.append([])
            free.append(budget)
            slot = len(bins) - 1
        bins[slot].append(index)
        free[slot] -= lengths[index]
    return bins


@dataclass(frozen=True)
class MicroBatch:
    """Trajectories packed end to end, [1, T] tokens; R response tokens of n trajectories."""

    index: int  # its place among the rank's micro-batches
    tokens: Tensor  # [1, T] int64
    packed: PackedSeqParams  # where each trajectory starts and ends; padding is a sequence of its own
    logprob_positions: Tensor  # [R] positions whose next-token distribution scores the response tokens
    score_positions: Tensor  # [R] positions whose token-RM score is read
    targets: Tensor  # [R] the response tokens
    lengths: list[int]  # [n] response tokens of each trajectory
    rewards: Tensor  # [n] of +1 / -1
    advantages: Tensor  # [n] float32
    pass_rates: Tensor  # [n] float32


def of_rank(samples: Sequence[Sample], ranks: Ranks, parallel: ParallelConfig, budget: int, score_position: str) -> list[MicroBatch]:
    """This data-parallel rank's micro-batches of a global batch. Every rank plans the same from the whole batch."""
    spread = plan([s.length for s in samples], ranks.dp, budget)[ranks.dp_rank]
    multiple = parallel.tp if parallel.sequence_parallel else 1
    return [
        pack([samples[i] for i in indices], number, multiple, score_position, ranks.platform.device)
        for number, indices in enumerate(spread)
    ]


def pack(samples: Sequence[Sample], index: int, multiple: int, score_position: str, device: torch.device) -> MicroBatch:
    """One micro-batch as tensors; the token count is padded to a multiple (of TP, under sequence parallelism).

    No samples give a micro-batch of padding alone: it takes part in every collective and adds nothing.
    """
    tokens: list[int] = []
    bounds, logprob_positions, score_positions = [0], [], []
    for s in samples:
        start, prompt, response = len(tokens), len(s.prompt_ids), len(s.response_ids)
        tokens += s.prompt_ids + s.response_ids
        bounds.append(len(tokens))
        logprob_positions += [start + i for i in response_positions(prompt, response, "previous")]
        score_positions += [start + i for i in response_positions(prompt, response, score_position)]
    padding = -len(tokens) % multiple or (0 if tokens else multiple)
    if padding:
        tokens += [0] * padding
        bounds.append(len(tokens))

    def ints(values):
        return torch.tensor(values, dtype=torch.int64, device=device)

    def floats(values):
        return torch.tensor(values, dtype=torch.float32, device=device)

    return MicroBatch(
        index=index,
        tokens=ints(tokens)[None],
        packed=_packed_params(bounds, device),
        logprob_positions=ints(logprob_positions),
        score_positions=ints(score_positions),
        targets=ints([t for s in samples for t in s.response_ids]),
        lengths=[len(s.response_ids) for s in samples],
        rewards=floats([s.reward for s in samples]),
        advantages=floats([s.advantage for s in samples]),
        pass_rates=floats([s.pass_rate for s in samples]),
    )


def _packed_params(bounds: list[int], device: torch.device) -> PackedSeqParams:
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
    longest = max(b - a for a, b in zip(bounds, bounds[1:], strict=False))
    return PackedSeqParams(qkv_format="thd", cu_seqlens_q=cu_seqlens, cu_seqlens_kv=cu_seqlens, max_seqlen_q=longest, max_seqlen_kv=longest)
