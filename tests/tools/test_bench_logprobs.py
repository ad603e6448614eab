"""The chunked log-probabilities need a fraction of the dense ones' memory, and give the same numbers."""

import pytest

from tools.bench_logprobs import measure_apart


@pytest.mark.slow
def test_chunks_need_at_most_an_eighth_of_the_dense_memory():
    dense, chunked = (measure_apart(way, tokens=16384, vocab=8192, device="cpu") for way in ("dense", "chunked"))
    assert chunked.extra_bytes <= dense.extra_bytes / 8
    assert chunked.mean_logprob == pytest.approx(dense.mean_logprob, rel=1e-6)
    assert chunked.gradient_norm == pytest.approx(dense.gradient_norm, rel=1e-5)
