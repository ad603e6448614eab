"""Triton kernels of model.fused_logprobs. Imported only where that way is chosen: a machine without a GPU need not have Triton.

**Which design.** T tokens, V words of this rank, h channels; a product of all logits is P = 2 T V h FLOPs. Counted for Qwen2.5-7B over TP 8
(T 16,384, V 19,008, h 3,584: P = 2.2 TFLOP, 3 ms of an H100) at 770 TFLOP/s and memory at 3 TB/s; no GPU has run it yet:
- All in one kernel (cut cross-entropy): a tile's gradient is multiplied with weight and hidden states on the spot. 4 P as here, but every
  128 x 256 tile adds 384 rows of h float32 sums to memory, with locks or atomics: 52 GB, each byte read and written in L2, where the four
  products take 12 ms. It pays there by leaving out tiles whose gradient rounds to nothing, which is not exact, and adds in another order
  each time. Two kernels, each with its sums on the chip, would need [128, h] float32 there (1.8 MB).
- A library product writes the logits of some tokens, a kernel goes over them (Liger): 4 P, and 6 bytes a logit where they are rounded to
  bfloat16 first (a logit of 20 is then off by up to 0.06), 10 where they are not.
- Here: the forward pass keeps three numbers for a token and 1,024 words; the backward pass computes a tile's logits again and writes its
  gradient, rounded as the next products want it: 2 bytes written and twice 2 read a logit, 1.9 GB, 0.6 ms. Both products are the
  library's, their sums in float32; chunks of tokens (shape.fused_chunk_tokens) bound what is held. 4 P; no atomics: repeatable.
The chunked way moves some 48 bytes a logit forward and 42 backward, 28 GB or 9 ms, beside the same 4 P.

**Which tiles** (bfloat16, H100: 132 processors with 227 KB of shared memory and 65,536 registers each).
- 128 tokens x 256 words: the float32 sums take half of the registers; nothing larger fits. A tile loads 384 rows for 2 x 32,768 FLOPs a
  channel, 85 FLOPs a byte of L2: 9 TB/s at full speed, which is what holds it back; 128 x 128 would ask for a third more.
- 64 channels a step are 128 bytes, a whole swizzled row, and 48 KB; 3 stages (144 KB, which an A100 has as well) keep 96 KB on the way,
  against the 70 KB that 48 bytes a clock need at 0.8 us of latency. 8 warps: two groups of four, which is what `wgmma` takes.
- 16 token tiles go through the words side by side: of all ways to place 132 tiles, 16 x 8 needs the fewest rows, 30 MB of 50 MB of L2. So
  the weight comes from memory T/2,048 times and the hidden states once: 1.2 GB, 0.4 ms of the 3.
- Exponentials: 16 a clock, 2,048 clocks a tile against 57,000 of its product. Compiled for sm_90 both kernels take 254 or 255 registers
  and spill nothing (tests/model); masks of minus infinity in place of LOWEST spilled 1.8 KB a thread.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_oreal.model.fused_logprobs import Strips
from megatron_oreal.model.shape import STRIP


@dataclass(frozen=True)
class Tile:
    """How a kernel is launched."""

    tokens: int
    words: int
    channels: int  # a step
    warps: int
    stages: int
    precision: str  # of a product of float32 numbers


TILES = {
    torch.bfloat16: Tile(tokens=128, words=256, channels=64, warps=8, stages=3, precision="ieee"),
    torch.float32: Tile(tokens=32, words=64, channels=32, warps=4, stages=2, precision="ieee"),  # to compare with: not fast
}
SIDE_BY_SIDE = tl.constexpr(16)
LOWEST = tl.constexpr(-1e30)
"""Stands for minus infinity, without its 0 x -inf."""


class TritonKernels:
    """See fused_logprobs.Kernels."""

    def strips(self, hidden: Tensor, weight: Tensor, local: Tensor) -> Strips:
        tile, (tokens, words) = TILES[hidden.dtype], (len(hidden), len(weight))
        found = Strips.empty(hidden, weight)
        grid = (triton.cdiv(tokens, tile.tokens) * len(found.peaks),)
        _sum_strips[grid](
            *(hidden, weight, local, found.peaks, found.totals, found.weighted, found.targets),
            *(tokens, words, hidden.shape[1]),
            STRIP=STRIP,
            **launch_options(tile),
        )
        return found

    def gradient(self, hidden: Tensor, weight: Tensor, local: Tensor, normalizer: Tensor, upstream: Tensor, out: Tensor) -> None:
        tile, (tokens, words) = TILES[hidden.dtype], out.shape
        grid = (triton.cdiv(tokens, tile.tokens) * triton.cdiv(words, tile.words),)
        _write_gradient[grid](
            *(hidden, weight, local, normalizer, upstream, out),
            *(tokens, words, hidden.shape[1]),
            **launch_options(tile),
        )

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        if left.dtype == total.dtype:
            total.addmm_(left, right)
        else:
            torch.addmm(total, left, right, out_dtype=total.dtype, out=total)


def launch_options(tile: Tile) -> dict:
    return {
        "TOKENS": tile.tokens,
        "WORDS": tile.words,
        "CHANNELS": tile.channels,
        "PRECISION": tile.precision,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


@triton.jit
def _place(rows, columns):
    """Which row and column of tiles this program has: `SIDE_BY_SIDE` rows go through the columns together."""
    place = tl.program_id(0)
    return tl.swizzle2d(place // columns, place % columns, rows, columns, SIDE_BY_SIDE)


@triton.jit
def _logits(
    hidden, weight, token, word, tokens, words, width,
    TOKENS: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[TOKENS, WORDS] in float32. Beyond the last token or word the last one is read again, instead of a mask on every load."""
    channel = tl.arange(0, CHANNELS)
    left = hidden + tl.minimum(token, tokens - 1).to(tl.int64)[:, None] * width + channel[None, :]
    right = weight + tl.minimum(word, words - 1).to(tl.int64)[None, :] * width + channel[:, None]
    total = tl.zeros((TOKENS, WORDS), dtype=tl.float32)
    for start in range(0, width, CHANNELS):
        there = channel < width - start
        a = tl.load(left, mask=there[None, :], other=0.0)
        b = tl.load(right, mask=there[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += CHANNELS
        right += CHANNELS
    return total


@triton.jit(do_not_specialize=["tokens"])
def _sum_strips(
    hidden, weight, targets, peaks, totals, weighted_sums, target_logits,
    tokens, words, width,
    STRIP: tl.constexpr, TOKENS: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, strip = _place(tl.cdiv(tokens, TOKENS), tl.cdiv(words, STRIP))
    token = row * TOKENS + tl.arange(0, TOKENS)
    inside = token < tokens
    target = tl.load(targets + token, mask=inside, other=-1)
    peak = tl.full((TOKENS,), LOWEST, dtype=tl.float32)
    total = tl.zeros((TOKENS,), dtype=tl.float32)
    weighted = tl.zeros((TOKENS,), dtype=tl.float32)
    picked = tl.zeros((TOKENS,), dtype=tl.float32)
    end = tl.minimum(strip * STRIP + STRIP, words)
    for first in range(strip * STRIP, end, WORDS):
        word = first + tl.arange(0, WORDS)
        logits = _logits(hidden, weight, token, word, tokens, words, width, TOKENS, WORDS, CHANNELS, PRECISION)
        picked += tl.sum(tl.where(word[None, :] == target[:, None], logits, 0.0), axis=1)
        logits = tl.where((word < words)[None, :], logits, LOWEST)
        higher = tl.maximum(peak, tl.max(logits, axis=1))
        apart = logits - higher[:, None]
        exp = tl.exp(apart)
        scale = tl.exp(peak - higher)
        weighted = scale * (weighted + (peak - higher) * total) + tl.sum(exp * apart, axis=1)
        total = scale * total + tl.sum(exp, axis=1)
        peak = higher
    tl.store(target_logits + token, picked, mask=inside & (target >= strip * STRIP) & (target < end))
    at = strip.to(tl.int64) * tokens + token
    tl.store(peaks + at, peak, mask=inside)
    tl.store(totals + at, total, mask=inside)
    tl.store(weighted_sums + at, weighted, mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _write_gradient(
    hidden, weight, targets, normalizers, upstream, gradient,
    tokens, words, width,
    TOKENS: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, column = _place(tl.cdiv(tokens, TOKENS), tl.cdiv(words, WORDS))
    token, word = row * TOKENS + tl.arange(0, TOKENS), column * WORDS + tl.arange(0, WORDS)
    inside = token < tokens
    target = tl.load(targets + token, mask=inside, other=-1)
    normalizer = tl.load(normalizers + token, mask=inside, other=0.0)
    scale = tl.load(upstream + token, mask=inside, other=0.0)
    logits = _logits(hidden, weight, token, word, tokens, words, width, TOKENS, WORDS, CHANNELS, PRECISION)
    # d logp(y) / d logit_j = [j == y] - softmax_j
    hit = word[None, :] == target[:, None]
    found = scale[:, None] * (tl.where(hit, 1.0, 0.0) - tl.exp(logits - normalizer[:, None]))
    at = gradient + token.to(tl.int64)[:, None] * words + word[None, :]
    tl.store(at, found.to(gradient.dtype.element_ty), mask=inside[:, None] & (word < words)[None, :])
