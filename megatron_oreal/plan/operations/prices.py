"""What single operations cost on one GPU: what a plan asks, and the answer where nobody has measured (see silicon for measured ones).

Everything is in seconds. An operation is bound by its arithmetic or by the bytes that it moves, whichever takes longer; the shares of a
device's stated figures that are reached stand in conf/plan/.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from megatron_oreal.devices import DEVICES, Device

NETWORK = 0.7
"""Share of stated network bandwidth that is reached, where nobody says otherwise: as conf/plan has it."""
LAUNCH_S = 3e-6
"""Of any operation, however small: what a kernel takes to start within a CUDA graph. By aiconfigurator's own constant for H100 and A100."""
EAGER_LAYER_S = 0.2e-3
"""A layer's operations when each is launched by Python, outside of a CUDA graph. Fitted to verl's GRPO of Qwen2.5-7B with eager vLLM."""
SLOWER = 1.32
"""Of measured operations, when they run in training: gaps between them, clocks that sink under load. Fitted to Megatron-LM's table of dense
models on H100 (1.7B to 70B, 409 to 489 TFLOP/s, communication overlapped), of which it is the median."""
Collective = Literal["all_gather", "reduce_scatter", "all_reduce"]


@dataclass(frozen=True)
class Heads:
    """Attention on one rank."""

    queries: int
    keys: int
    channels: int  # of a head
    normed: bool = False  # q and k, before the product


class Prices(Protocol):
    """Seconds of one operation on one GPU in bfloat16. Fractions of tokens are those of an average."""

    source: str  # for the report: what was measured, and by whom

    def matmul(self, tokens: float, outputs: int, inputs: int, number: str = "bfloat16") -> float:
        """[tokens, inputs] x [inputs, outputs]. `number`: of the weights (bfloat16, fp8 or fp8_block)."""

    def decode_attention(self, heads: Heads, batch: int, context: float, number: str = "bfloat16") -> float:
        """A token of each of `batch` sequences, which have `context` tokens. `number`: of the cache (bfloat16 or fp8)."""

    def prefill_attention(self, heads: Heads, batch: int, length: int, prefix: int = 0) -> float:
        """`length` new tokens of each of `batch` sequences after `prefix` cached ones, causal."""

    def all_reduce(self, tokens: float, width: int, ranks: int) -> float:
        """Of an engine: [tokens, width] over ranks of one host, by the kernel that its engine has for it."""

    def collective(self, kind: Collective, nbytes: float, ranks: int) -> float:
        """Of NCCL. `nbytes`: of the whole tensor, ranks of one host."""

    def moved(self, nbytes: float) -> float:
        """Norms, activations, sums: bound by memory."""


@dataclass(frozen=True)
class Stated:
    """By the maker's figures and the shares of them that are reached."""

    device: Device
    matmul_share: float
    memory_share: float
    network_share: float
    source: str

    @classmethod
    def of(cls, name: str, network: float, matmul: float | None = None, memory: float | None = None) -> "Stated":
        """Of one of megatron_oreal.devices; None: its own shares."""
        device = DEVICES[name]
        shares = matmul or device.matmul_share, memory or device.memory_share, network
        said = ", ".join(f"{share:.0%}" for share in shares)
        return cls(device, *shares, f"stated figures of {name}, of which {said} are assumed (arithmetic, memory, network)")

    def matmul(self, tokens: float, outputs: int, inputs: int, number: str = "bfloat16") -> float:
        """See Prices; fp8 halves the weights' bytes, and nothing else is assumed of it."""
        weights = outputs * inputs * (2 if number == "bfloat16" else 1)
        return self._bound(2 * tokens * outputs * inputs, weights + 2 * tokens * (outputs + inputs))

    def decode_attention(self, heads: Heads, batch: int, context: float, number: str = "bfloat16") -> float:
        """See Prices: reads the cache once."""
        values = batch * context * heads.channels
        nbytes = 2 * values * heads.keys * (2 if number == "bfloat16" else 1)
        return self._bound(4 * values * heads.queries, nbytes)

    def prefill_attention(self, heads: Heads, batch: int, length: int, prefix: int = 0) -> float:
        """See Prices."""
        pairs = batch * length * (prefix + length / 2)
        return self._bound(4 * pairs * heads.channels * heads.queries, 4 * batch * length * heads.channels * (heads.queries + heads.keys))

    def all_reduce(self, tokens: float, width: int, ranks: int) -> float:
        """See Prices."""
        return self._sent(2 * 2 * tokens * width, ranks)

    def collective(self, kind: Collective, nbytes: float, ranks: int) -> float:
        """See Prices."""
        return self._sent(nbytes * (2 if kind == "all_reduce" else 1), ranks)

    def moved(self, nbytes: float) -> float:
        """See Prices."""
        return self._bound(0, nbytes)

    def _bound(self, flops: float, nbytes: float) -> float:
        computing = flops / (self.device.bf16_flops * self.matmul_share)
        return LAUNCH_S + max(computing, nbytes / (self.device.memory_bytes_s * self.memory_share))

    def _sent(self, nbytes: float, ranks: int) -> float:
        """A ring within NVLink."""
        bandwidth = self.device.nvlink_bytes_s * self.network_share
        return LAUNCH_S + nbytes * (ranks - 1) / ranks / bandwidth if ranks > 1 else 0.0
