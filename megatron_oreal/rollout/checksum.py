"""What an engine's /weights_checker must say of the weights that were sent: the same hash, computed on our side.

SGLang fuses q, k, v and gate, up into one parameter each, and pads the vocabulary to a multiple of 64 with zeros. (On CPU it
also pads a feed-forward size that its kernels do not like, such as 48; such a model's sync is refused here, not let through.)
"""

import hashlib
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from megatron_oreal.rollout.server import ServerError

VOCAB_MULTIPLE = 64
FUSED = {  # engine parameter -> the Hugging Face ones it is made of, in order
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
PART_OF = {part: (whole, parts) for whole, parts in FUSED.items() for part in parts}
LAYER_PARAMETER = re.compile(r"(model\.layers\.\d+\.)(.+)\.(weight|bias)")


class EngineChecksums:
    """Hashes tensors, under their engine-side names, as they pass by on their way to an engine with TP 1."""

    def __init__(self):
        self._expected: dict[str, str] = {}
        self._waiting: dict[str, dict[str, Tensor]] = {}

    def passing(self, tensors) -> Iterator[tuple[str, Tensor]]:
        """The same tensors, hashed. A part of a fused parameter is kept until the others have come."""
        for name, tensor in tensors:
            self._note(name, tensor)
            yield name, tensor
        assert not self._waiting, f"parts of fused parameters were never sent: {', '.join(self._waiting)}"

    def _note(self, name: str, tensor: Tensor) -> None:
        match = LAYER_PARAMETER.fullmatch(name)
        if match and match[2] in PART_OF:
            whole, parts = PART_OF[match[2]]
            engine_name = f"{match[1]}{whole}.{match[3]}"
            have = self._waiting.setdefault(engine_name, {})
            have[match[2]] = tensor
            if len(have) < len(parts):
                return
            tensor = torch.cat([have[p] for p in parts])
            del self._waiting[engine_name]
            name = engine_name
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = torch.nn.functional.pad(tensor, (0, 0, 0, -tensor.shape[0] % VOCAB_MULTIPLE))
        self._expected[name] = _hash(tensor)

    def compare(self, answer, url: str) -> tuple[int, int]:
        """(tensors compared, tensors that the engine has); see WeightSync.verify."""
        engine = _find_checksums(answer)
        for name, expected in self._expected.items():
            if name not in engine:
                raise ServerError(f"{url}: after the weight update the engine has no tensor {name}")
            if engine[name] != expected:
                raise ServerError(f"{url}: after the weight update {name} differs from the trainer's ({engine[name]} is not {expected})")
        return len(self._expected), len(engine)


def _find_checksums(answer) -> dict[str, str]:
    """The "checksums" object, wherever the server's version nests it."""
    if isinstance(answer, dict):
        if isinstance(answer.get("checksums"), dict):
            return answer["checksums"]
        answer = list(answer.values())
    if isinstance(answer, list):
        for item in answer:
            if found := _find_checksums(item):
                return found
    return {}


def _hash(tensor: Tensor) -> str:
    """SGLang's hash of one tensor: on CPU the first 8 bytes of the SHA-256 of its bytes, on GPU a kernel of its own."""
    if tensor.is_cuda:
        from sglang.srt.managers.mm_utils import tensor_hash

        return f"{tensor_hash(tensor):016x}"
    raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(memoryview(raw)).digest()[:8].hex()
