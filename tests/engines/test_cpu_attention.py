"""Decoding in batches gives what SGLang's own loop over the sequences gives."""

import torch

from megatron_oreal.engines.cpu_attention import attend, in_batches

HEADS, CHANNELS = 6, 16


def one_by_one(query, caches, places, lengths, scale):
    """As SGLang's torch_native backend does it: each sequence's keys and values gathered, and attended to."""
    rows = []
    for number, length in enumerate(lengths.tolist()):
        keys, values = (cache[places[number, :length]].repeat_interleave(HEADS // cache.shape[1], 1) for cache in caches)
        weights = torch.einsum("hc,lhc->hl", query[number], keys).mul(scale or CHANNELS**-0.5).softmax(-1)
        rows.append(torch.einsum("hl,lhc->hc", weights, values))
    return torch.stack(rows)


def test_sequences_together_give_what_each_gives_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for groups, numbers, scale in ((2, 1 << 18, None), (6, 1 << 18, 0.2), (1, 200, None), (3, 1, None)):
        monkeypatch.setattr("megatron_oreal.engines.cpu_attention.CACHED_NUMBERS", numbers)
        lengths = torch.randint(1, 40, (50,), generator=generator)
        caches = tuple(torch.randn(2001, groups, CHANNELS, generator=generator) for _ in range(2))
        places = torch.randint(0, 2001, (50, 64), generator=generator, dtype=torch.int32)
        query = torch.randn(50, HEADS, CHANNELS, generator=generator)
        output = torch.empty_like(query)
        attend(query, output, caches, places, lengths, scale)
        torch.testing.assert_close(output, one_by_one(query, caches, places, lengths, scale), rtol=1e-5, atol=1e-5)


def test_sglangs_own_method_takes_what_is_not_plain():
    taken = []
    decode = in_batches(lambda self, *arguments, **options: taken.append(options))
    query, cache = torch.zeros(3, HEADS, CHANNELS), torch.zeros(9, 2, CHANNELS)
    places, rows, lengths = torch.zeros(3, 4, dtype=torch.int32), torch.arange(3), torch.ones(3, dtype=torch.int64)
    given = (query, query.clone(), cache, cache, places, rows, lengths)
    decode(None, *given)
    assert taken == []
    for number, options in enumerate(({"sliding_window_size": 8}, {"is_cross_attn": True}), 1):
        decode(None, *given, **options)
        assert len(taken) == number
    decode(None, query[:1], query[:1].clone(), cache, cache, places, rows[:1], lengths[:1])
    assert len(taken) == 3  # one sequence alone
