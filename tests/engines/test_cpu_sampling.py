"""Drawing among the likeliest words gives what SGLang's own function gives from all of them."""

import pytest
import torch

from megatron_oreal.engines import sglang_cpu  # noqa: F401  SGLang can be imported after it
from megatron_oreal.engines.cpu_sampling import LIKELIEST, WORTH_IT, among_the_likeliest

ROWS, WORDS = 6, 3 * WORTH_IT


@pytest.fixture(scope="module")
def sglangs():
    """SGLang's own function, which the installed shim wraps."""
    from sglang.srt.layers import sampler

    return sampler.top_k_top_p_min_p_sampling_from_probs_torch.__wrapped__


def rows(sharpness: float) -> torch.Tensor:
    return (torch.randn(ROWS, WORDS, generator=torch.Generator().manual_seed(0)) * sharpness).softmax(-1)


def asked(top_k: int, top_p: float, seeds: range | None):
    seeded = None if seeds is None else torch.tensor(list(seeds))
    return torch.full((ROWS,), top_k), torch.full((ROWS,), top_p), torch.zeros(ROWS), False, seeded, torch.arange(ROWS)


@pytest.mark.parametrize(
    ("sharpness", "top_k", "top_p", "few"), [(5, 1 << 30, 0.9, True), (0.1, 50, 1.0, True), (0.1, 1 << 30, 0.9, False)]
)
def test_with_seeds_the_same_words_are_drawn(sglangs, sharpness, top_k, top_p, few):
    widths = []

    def noted(probs, *others, **options):
        widths.append(probs.shape[-1])
        return sglangs(probs, *others, **options)

    for start in range(0, 60, ROWS):
        options = asked(top_k, top_p, range(start, start + ROWS))
        mine = among_the_likeliest(noted)(rows(sharpness), *options)
        assert mine.dtype == torch.int32 and torch.equal(mine, sglangs(rows(sharpness), *options))
    assert set(widths) == {LIKELIEST if few else WORDS}


def test_without_seeds_only_words_within_top_p_are_drawn_and_as_often(sglangs):
    probs, draws = rows(4), 400
    counts = torch.zeros_like(probs)
    torch.manual_seed(0)
    for _ in range(draws):
        counts[torch.arange(ROWS), among_the_likeliest(sglangs)(probs, *asked(1 << 30, 0.5, None)).long()] += 1
    sorted_probs, words = probs.sort(-1, descending=True)
    kept = torch.zeros_like(probs).scatter(1, words, sorted_probs * (sorted_probs.cumsum(-1) - sorted_probs <= 0.5))
    assert not counts[kept == 0].any()
    likeliest = words[:, 0]
    expected = (kept / kept.sum(-1, keepdim=True)).gather(1, likeliest[:, None])
    assert torch.allclose(counts.gather(1, likeliest[:, None]) / draws, expected, atol=4 * 0.5 / draws**0.5)
