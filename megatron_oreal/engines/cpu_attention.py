"""CPU shim: decoding attends for many sequences at one time. Does nothing where CUDA is.

SGLang's torch_native backend goes through the running sequences one by one, in every layer of every decode step: of a small model's step
with hundreds of them that is most of the time. Measured on 2 cores in float32, a layer: 64 sequences of at most 300 tokens (14 heads over 2
of 64 channels) 4.8 ms there, 2.0 ms here; 512 sequences of up to 100 (4 heads over 2 of 16) 15.3 and 2.6 ms.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

CACHED_NUMBERS = 1 << 18
"""Keys of the sequences that are taken at one time: so many numbers, and as many values, stay in a core's cache."""


def install() -> None:
    """Install the shim once a process, after SGLang can be imported."""
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend as Backend

    Backend._run_sdpa_forward_decode = in_batches(Backend._run_sdpa_forward_decode)


def in_batches(one_by_one: Callable) -> Callable:
    """SGLang's method in its own form; what it does besides plain causal self-attention is left to it."""

    @wraps(one_by_one)
    def decode(self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens=None, **options):
        plain = encoder_lens is None and not options.get("is_cross_attn") and options.get("sliding_window_size") is None
        if len(seq_lens) == 1 or not plain or k_cache.dtype != query.dtype or v_cache.shape != k_cache.shape:
            return one_by_one(self, query, output, k_cache, v_cache, req_to_token, req_pool_indices, seq_lens, encoder_lens, **options)
        places = req_to_token[req_pool_indices, : int(seq_lens.max())]
        attend(query, output, (k_cache, v_cache), places, seq_lens, options.get("scaling"))
        return output

    return decode


def attend(query: Tensor, output: Tensor, caches: tuple[Tensor, Tensor], places: Tensor, lengths: Tensor, scale: float | None) -> None:
    """One query a sequence attends to its keys, sequences of like lengths together; the answers go to `output`.

    Args:
        query, output: [sequences, heads, channels].
        caches: keys and values of all tokens, each [tokens, key-value heads, channels].
        places: [sequences, longest] of a sequence's tokens in the caches; beyond its length anything.
        lengths: [sequences].
        scale: of the products; None: 1 / sqrt(channels).
    """
    groups, channels = caches[0].shape[1:]
    longest = places.shape[1]
    at_once = max(CACHED_NUMBERS // (longest * groups * channels), 1)
    rooms = query.new_empty(2, min(at_once, len(lengths)) * longest, groups * channels)  # reused: fresh memory costs more than the copy
    for chosen in lengths.argsort().split(at_once):
        length = lengths[chosen]
        within = torch.arange(int(length[-1]), device=length.device) < length[:, None]
        tokens = places[chosen, : within.shape[1]].masked_fill(~within, 0)
        keys, values = (_gather(cache, tokens, room) for cache, room in zip(caches, rooms, strict=True))
        grouped = query[chosen].view(len(chosen), groups, -1, channels)  # the heads that share keys are rows of one product
        found = scaled_dot_product_attention(grouped, keys, values, attn_mask=within[:, None, None], scale=scale)
        output[chosen] = found.reshape(len(chosen), -1, channels)


def _gather(cache: Tensor, tokens: Tensor, room: Tensor) -> Tensor:
    """[sequences, key-value heads, tokens, channels] of the cache at `tokens` [sequences, tokens], in `room`."""
    rows = torch.index_select(cache.flatten(1), 0, tokens.flatten(), out=room[: tokens.numel()])
    return rows.view(*tokens.shape, *cache.shape[1:]).transpose(1, 2)
