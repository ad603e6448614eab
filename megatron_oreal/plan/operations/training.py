"""Seconds of forward and backward passes over packed sequences, added up from the operations of a layer at their real shapes (prices)."""

from dataclasses import dataclass
from math import sqrt

from megatron_oreal.devices import Device
from megatron_oreal.model.config import Layout
from megatron_oreal.model.shape import head_dim
from megatron_oreal.plan.operations.prices import EAGER_LAYER_S, SLOWER, Heads, Prices

ATTENTION_BACKWARD = 3.0
"""Attention's backward pass over its forward pass: 2.5 times the FLOPs, at five sixths of the rate (FlashAttention-3, arXiv 2407.08608,
figures 5 and 6: 620 against 520 TFLOP/s at 16k tokens)."""
MOVED = 20
"""Numbers of the residual stream that norms and residual sums read and write in a forward pass, in hidden sizes; backward twice that."""
Pass = tuple[float, float]
"""(forward, backward) passes over the layers; a part of one where parts of a layer are computed again."""
FORWARD, TRAINED, RECOMPUTED = (1, 0), (1, 1), (2, 1)
BUCKET = 40_000_000
"""Parameters whose gradients travel together (megatron.core.distributed, as long as there are fewer than 40 data-parallel ranks)."""


@dataclass(frozen=True)
class Overlap:
    """Which messages are under way while a rank computes."""

    tensor: bool = False  # tensor-parallel ones; megatron_oreal's are not
    gradients: bool = False  # learn.overlap_grad_reduce: during the backward pass of the last micro-batch
    weights: bool = False  # learn.overlap_param_gather: during the forward pass of the first micro-batch of the next step


@dataclass(frozen=True)
class Work:
    """What the busiest rank computes in an optimizer step."""

    micro_batches: int
    tokens: float
    squares: float  # sum of squared lengths of the sequences

    @property
    def length(self) -> float:
        """At which equally long sequences have the same attention."""
        return self.squares / self.tokens


@dataclass(frozen=True)
class Trainer:
    """A model on its ranks."""

    hf: object  # transformers config, or model.shape.Shape
    prices: Prices
    device: Device
    layout: Layout
    gpus: int
    gpus_per_host: int
    network_share: float
    sharded: bool = False  # weights as well, over all ranks of the job (FSDP)
    overlap: Overlap = Overlap()

    def seconds(self, work: Work, passes: Pass, head: int) -> float:
        """Of all micro-batches: the last stage's, and the pipeline's bubble.

        Args:
            head: products of the LM head, each as large as that of its forward pass.
        """
        bubble = (self.layout.pp - 1) / (self.layout.vpp or 1)
        return self._micro_batch(work, passes, head) * (work.micro_batches + bubble)

    def _micro_batch(self, work: Work, passes: Pass, head: int) -> float:
        """On the last stage."""
        forward, backward = passes
        layers, tokens = self.hf.num_hidden_layers / self.layout.pp, work.tokens / work.micro_batches / self.layout.cp
        computing = layers * (forward * self._forward(tokens, work.length) + backward * self._backward(tokens, work.length))
        computing += head * self.prices.matmul(tokens, self.hf.vocab_size // self.layout.tp, self.hf.hidden_size)
        sent, gathered = layers * (forward + backward) * self._sent(tokens), self._gathered(passes)
        computing *= SLOWER
        return max(computing, sent, gathered) if self.overlap.tensor else max(computing + sent, gathered)

    def update(self, parameters: int, state_bytes: int, gradient_bytes: int, work: Work, read_at_once: bool = False) -> float:
        """Reducing the gradients, the optimizer's step, and gathering the weights; of messages, what is not hidden behind the passes.

        Args:
            parameters: of the whole model.
            state_bytes: of the optimizer for a parameter.
            gradient_bytes: in which gradients are kept and reduced.
            read_at_once: the whole weights are read before the next forward pass (by a sync), so that their gathering is waited for.
        """
        shards = self.gpus // (self.layout.tp * self.layout.pp)
        mine = parameters / (self.layout.tp * self.layout.pp)
        # Gradients are read for their norm and for the step; masters and moments are read and written.
        touched = self.prices.moved(mine / shards * (2 * gradient_bytes + 2 * state_bytes + 2))
        if self.sharded:
            return touched
        second = mine * (shards - 1) / shards / self.bandwidth(self.layout.tp, shards)  # for a byte of each parameter
        reducing, gathering, exposed = second * gradient_bytes, second * 2, min(1.0, BUCKET / mine)
        if self.overlap.gradients:  # the bucket that is ready last has nothing to hide behind
            reducing = max(exposed * reducing, reducing - self._micro_batch(work, (0, 1), 0))
        if self.overlap.weights and not read_at_once:
            gathering = max(exposed * gathering, gathering - self._micro_batch(work, (1, 0), 0))
        return reducing + touched + gathering

    def bandwidth(self, stride: int, ranks: int) -> float:
        """Bytes a second of each rank of a group whose ranks lie `stride` apart: NVLink within a host, else their hosts' network cards."""
        here = max(1, self.gpus_per_host // stride)
        network = self.device.network_bytes_s * min(here, ranks)
        return self.network_share * (self.device.nvlink_bytes_s if ranks <= here else min(network, self.device.nvlink_bytes_s))

    def _gathered(self, passes: Pass) -> float:
        """What sharded weights take to be gathered for each pass and, as gradients, scattered again: meanwhile the passes compute."""
        if not self.sharded:
            return 0.0
        hf, (forward, backward) = self.hf, passes
        queries, keys = hf.num_attention_heads * head_dim(hf), hf.num_key_value_heads * head_dim(hf)
        layer = hf.hidden_size * (2 * queries + 2 * keys + 3 * hf.intermediate_size)
        nbytes = 2 * layer * hf.num_hidden_layers / self.layout.tp * (min(forward, 1) + 2 * backward)
        return nbytes / self.bandwidth(self.layout.tp, self.gpus // self.layout.tp)

    def _forward(self, tokens: float, length: float) -> float:
        """One layer over the tokens of a micro-batch on a rank."""
        products = sum(self.prices.matmul(tokens, outputs, inputs) for outputs, inputs in self._weights())
        attention = self._attention(tokens, length)
        return max(products + attention + self._moved(tokens), EAGER_LAYER_S / SLOWER)

    def _backward(self, tokens: float, length: float) -> float:
        """Gradients of inputs and of weights."""
        inputs = sum(self.prices.matmul(tokens, rows, columns) for columns, rows in self._weights())
        weights = sum(self.prices.matmul(columns, rows, round(tokens)) for columns, rows in self._weights())
        attention = ATTENTION_BACKWARD * self._attention(tokens, length)
        return max(inputs + weights + attention + 2 * self._moved(tokens), 2 * EAGER_LAYER_S / SLOWER)

    def _weights(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the products of a layer on a rank."""
        hf, heads = self.hf, self._heads
        queries, keys, forward = heads.queries * heads.channels, heads.keys * heads.channels, hf.intermediate_size // self.layout.tp
        h = hf.hidden_size
        return [(queries + 2 * keys, h), (h, queries), (2 * forward, h), (h, forward)]

    @property
    def _heads(self) -> Heads:
        hf, tp = self.hf, self.layout.tp
        return Heads(max(1, hf.num_attention_heads // tp), -(-hf.num_key_value_heads // tp), head_dim(hf), hf.model_type == "qwen3")

    def _attention(self, tokens: float, length: float) -> float:
        """Over equally long sequences; one longer than the micro-batch's tokens on a rank is shared by context-parallel ranks."""
        cp = self.layout.cp
        sequences = tokens * cp / length
        if sequences >= 1:
            whole = max(1, round(sequences))
            return self.prices.prefill_attention(self._heads, whole, round(length)) * sequences / whole / cp
        return self.prices.prefill_attention(self._heads, 1, round(sqrt(tokens * cp * length))) / cp

    def _moved(self, tokens: float) -> float:
        """Norms, residual sums, rotary embedding and SwiGLU."""
        hf, heads, tp = self.hf, self._heads, self.layout.tp
        stream = MOVED * hf.hidden_size / (tp if self.layout.sequence_parallel else 1)
        rotated = 4 * (heads.queries + heads.keys) * heads.channels
        return self.prices.moved(tokens * (stream + rotated + 6 * hf.intermediate_size / tp))

    def _sent(self, tokens: float) -> float:
        """Around attention and around the feed-forward part the residual stream is summed over TP; keys and values come from all of CP."""
        layout, hf, heads = self.layout, self.hf, self._heads
        nbytes = 2 * tokens * hf.hidden_size
        gathered = 2 * (layout.cp - 1) * tokens * 2 * heads.keys * heads.channels / self.bandwidth(layout.tp, layout.cp)
        if not layout.sequence_parallel:
            return gathered + 2 * self.prices.collective("all_reduce", nbytes, layout.tp)
        return gathered + 2 * sum(self.prices.collective(kind, nbytes, layout.tp) for kind in ("all_gather", "reduce_scatter"))
