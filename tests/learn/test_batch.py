"""The packed tensors of a micro-batch point at the right places."""

import torch

from megatron_oreal.learn.batch import pack
from megatron_oreal.model.split import Split
from megatron_oreal.trajectory import Sample

SAMPLES = [Sample("a", [1, 2], [3, 4, 5], 1, 0.5, 0.5, 0), Sample("b", [6], [7], -1, -0.5, 0.5, 0)]


def test_positions_of_packed_responses():
    micro = pack(SAMPLES, 0, Split(sp=4), score_position="token", device=torch.device("cpu"))
    assert micro.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 0]]
    assert micro.packed.cu_seqlens_q.tolist() == [0, 5, 7, 8]
    assert micro.logprobs.targets.tolist() == [3, 4, 5, 7]
    assert micro.logprobs.positions.tolist() == [1, 2, 3, 5]
    assert micro.scores.positions.tolist() == [2, 3, 4, 6]
    assert micro.logprobs.places.tolist() == [0, 1, 2, 3]
    assert pack([], 0, Split(sp=4), score_position="token", device=torch.device("cpu")).tokens.shape == (1, 4)


def test_context_parallel_ranks_hold_every_token_and_every_response_position_once():
    parts = [pack(SAMPLES, 0, Split(cp=2, cp_rank=r), score_position="previous", device=torch.device("cpu")) for r in (0, 1)]
    # Sequences are padded to multiples of 4 and cut into 4 parts: rank 0 has the outer ones, rank 1 the inner ones.
    assert parts[0].tokens.tolist() == [[1, 2, 0, 0, 6, 0]]
    assert parts[1].tokens.tolist() == [[3, 4, 5, 0, 7, 0]]
    assert all(p.packed.cu_seqlens_q.tolist() == [0, 8, 12] for p in parts)
    assert [p.logprobs.positions.tolist() for p in parts] == [[1, 4], [0, 1]]
    assert [p.logprobs.targets.tolist() for p in parts] == [[3, 7], [4, 5]]
    assert sorted(parts[0].logprobs.places.tolist() + parts[1].logprobs.places.tolist()) == [0, 1, 2, 3]
