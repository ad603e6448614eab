"""Seconds of an engine's steps, added up from the operations of its layers (prices), and what its host adds to them."""

from dataclasses import dataclass

from megatron_oreal.model.shape import head_dim
from megatron_oreal.plan.operations.prices import EAGER_LAYER_S, SLOWER, Heads, Prices


@dataclass(frozen=True)
class Host:
    """What an engine's processes add to a step: scheduling, sampling, detokenising."""

    step_s: float
    sequence_s: float
    eager_layer_s: float = EAGER_LAYER_S
    interrupted: float = 1.0  # share of other requests' prefills that fall between two tokens of a request


HOSTS = {  # fitted to what is left of published steps beside measured operations and other requests' prefills:
    # SGLang 0.5.1 and 0.5.6: Qwen3-32B on H100, Llama-3.1-8B on H200. It computes prefills first and apart, so that requests which came
    # together stay so, and each waits for half of the others.
    "sglang": Host(1.5e-3, 0.0, interrupted=0.5),
    "vllm": Host(1.3e-3, 0.03e-3),  # vLLM 0.12: Qwen3-32B on H100; and Qwen2.5 on A100
    "vllm offline": Host(1.3e-3, 0.01e-3),  # within a trainer, where nothing is detokenised or sent: verl's GRPO of Qwen2.5-7B
    "vllm async": Host(0.4e-3, 0.01e-3),  # vLLM from 0.14, which schedules while the GPU computes: Llama-3.1-8B by 0.19
    "trtllm": Host(0.0, 0.0),  # TensorRT-LLM 1.0: Llama-3.1-8B on H100
    "2023": Host(0.0, 0.25e-3, 0.37e-3),  # Splitwise: Llama-2-70B, whose steps take 29.8 ms for 80 layers at TP 4 and TP 8 alike
}


@dataclass(frozen=True)
class Served:
    """A model on one engine."""

    hf: object  # transformers config, or model.shape.Shape
    prices: Prices
    tp: int
    host: Host
    weights: str = "bfloat16"
    cache: str = "bfloat16"
    graph_limit: int | None = None  # most sequences of a CUDA graph; None: all

    def decode_s(self, batch: int, context: float) -> float:
        """One token of each of `batch` sequences, which have `context` tokens on average."""
        attention = self.prices.decode_attention(self._heads, batch, context, self.cache)
        kernels = self._pass(batch, batch, attention)
        if self.graph_limit is not None and batch > self.graph_limit:
            kernels = max(kernels, self.hf.num_hidden_layers * self.host.eager_layer_s)
        return kernels + self.host.step_s + batch * self.host.sequence_s

    def prefill_s(self, length: int, batch: int = 1, prefix: int = 0) -> float:
        """`length` new tokens of each of `batch` sequences, after `prefix` cached ones; without graphs as slowly as in training."""
        attention = self.prices.prefill_attention(self._heads, batch, length, prefix)
        return self._pass(batch * length, batch, attention) * (SLOWER if self.graph_limit == 0 else 1.0)

    @property
    def _heads(self) -> Heads:
        hf, tp = self.hf, self.tp
        return Heads(max(1, hf.num_attention_heads // tp), -(-hf.num_key_value_heads // tp), head_dim(hf), hf.model_type == "qwen3")

    def _pass(self, tokens: float, sampled: int, attention: float) -> float:
        """All layers, embedding and head; logits of `sampled` tokens."""
        hf, prices, heads = self.hf, self.prices, self._heads
        hidden, forward = hf.hidden_size, hf.intermediate_size // self.tp
        values = heads.queries * heads.channels
        layer = attention + 2 * prices.moved(8 * hidden * tokens) + prices.moved(6 * forward * tokens)
        layer += prices.matmul(tokens, values + 2 * heads.keys * heads.channels, hidden, self.weights)
        layer += prices.matmul(tokens, hidden, values, self.weights)
        layer += prices.matmul(tokens, 2 * forward, hidden, self.weights) + prices.matmul(tokens, hidden, forward, self.weights)
        layer += 2 * prices.all_reduce(tokens, hidden, self.tp)
        ends = prices.moved(4 * hidden * tokens) + prices.all_reduce(tokens, hidden, self.tp)
        return hf.num_hidden_layers * layer + ends + prices.matmul(sampled, hf.vocab_size // self.tp, hidden)
