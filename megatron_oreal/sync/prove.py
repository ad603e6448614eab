"""What an engine's /weights_checker must say of the weights that were sent: the same hashes, computed on our side.

SGLang fuses q, k, v and gate, up into one parameter each, pads the vocabulary to a multiple of 64 with zeros, and splits over its TP
ranks as Megatron does; a key/value head is held by several ranks where there are more ranks than such heads. (On CPU it also pads a
feed-forward size that its kernels do not like, such as 48; such a model's sync is refused here, not let through.)
"""

import hashlib
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError

VOCAB_MULTIPLE = 64
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
FUSED = {"self_attn.qkv_proj": QKV, "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")}  # engine parameter -> its parts, in order
PART_OF = {part: (whole, parts) for whole, parts in FUSED.items() for part in parts}
SPLIT_COLUMNS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
VOCAB_ROWS = ("model.embed_tokens.weight", "lm_head.weight")
LAYER_PARAMETER = re.compile(r"(model\.layers\.\d+\.)(.+)\.(weight|bias)")


class WrongWeights(ServerError):
    """An engine holds other weights than were sent; names the first tensor that differs. The run must not go on."""


class EngineChecksums:
    """Hashes tensors under their engine-side names, for engines of one TP size, while they are on their way there."""

    def __init__(self, tp: int, kv_heads: int):
        self._tp, self._kv_heads = tp, kv_heads
        self._expected: dict[str, list[str]] = {}  # engine parameter -> hash on each TP rank
        self._waiting: dict[str, dict[str, Tensor]] = {}

    def note(self, name: str, tensor: Tensor) -> None:
        """One more tensor, whole, under its Hugging Face name. A part of a fused parameter is kept until the others have come."""
        match = LAYER_PARAMETER.fullmatch(name)
        if match and match[2] in PART_OF:
            whole, parts = PART_OF[match[2]]
            name = f"{match[1]}{whole}.{match[3]}"
            have = self._waiting.setdefault(name, {})
            have[match[2]] = tensor
            if len(have) == len(parts):
                del self._waiting[name]
                self._expected[name] = self._hashes(lambda rank: [self._rows(part, have[part], rank) for part in parts])
        elif name in VOCAB_ROWS:
            padding = -tensor.shape[0] % VOCAB_MULTIPLE
            padded = torch.nn.functional.pad(tensor, (0, 0, 0, padding)) if padding else tensor
            self._expected[name] = self._hashes(lambda rank: [padded.chunk(self._tp)[rank]])
        elif name.endswith(SPLIT_COLUMNS):
            self._expected[name] = self._hashes(lambda rank: [tensor.chunk(self._tp, dim=1)[rank]])
        else:
            self._expected[name] = [_hash([tensor])] * self._tp

    def _rows(self, part: str, tensor: Tensor, rank: int) -> Tensor:
        if part in QKV[1:] and self._tp > self._kv_heads:
            return tensor.chunk(self._kv_heads)[rank * self._kv_heads // self._tp]
        return tensor.chunk(self._tp)[rank]

    def _hashes(self, shard: Callable[[int], Sequence[Tensor]]) -> list[str]:
        return [_hash(shard(rank)) for rank in range(self._tp)]

    def compare(self, answer, endpoint: Endpoint) -> tuple[int, int]:
        """(tensors compared, tensors that the engine has); see WeightSender.compare."""
        assert not self._waiting, f"parts of fused parameters were never sent: {', '.join(self._waiting)}"
        ranks = [rank["checksums"] for rank in answer["ranks"]]
        if len(ranks) != self._tp:
            raise WrongWeights(f"{endpoint.url}: checksums of {len(ranks)} ranks instead of {self._tp}")
        for name, hashes in self._expected.items():
            for rank, (expected, engine) in enumerate(zip(hashes, ranks, strict=True)):
                if name not in engine:
                    raise WrongWeights(f"{endpoint.url}: after the weight update the engine has no tensor {name}")
                if engine[name] != expected:
                    of_rank = f" on rank {rank}" if self._tp > 1 else ""
                    differs = f"{name}{of_rank} differs from the trainer's ({engine[name]} is not {expected})"
                    raise WrongWeights(f"{endpoint.url}: after the weight update {differs}")
        return len(self._expected), len(ranks[0])


def _hash(pieces: Sequence[Tensor]) -> str:
    """SGLang's hash of one tensor, given in pieces of its rows: on CPU the first 8 bytes of its SHA-256, on GPU a kernel of its own."""
    if pieces[0].is_cuda:
        from sglang.srt.managers.mm_utils import tensor_hash

        return f"{tensor_hash(pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces))):016x}"
    digest = hashlib.sha256()
    for piece in pieces:  # without putting them together: that copy took as long as the hash
        digest.update(memoryview(piece.detach().contiguous().view(-1).view(torch.uint8).numpy()))
    return digest.digest()[:8].hex()
