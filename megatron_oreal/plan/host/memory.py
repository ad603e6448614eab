"""What a rank holds on a machine without a GPU: memory.Formula with what Megatron's local layers keep there (model.cpu_layers).

Nothing is fused, so autograd keeps what every operation wants for its backward pass. The terms were read off torch's saved tensors, and
tests/plan/test_host.py holds their sum, and the peak, against real ranks.
"""

from dataclasses import dataclass

from megatron_oreal.model.architecture import FAMILIES
from megatron_oreal.model.shape import chunk_tokens, head_dim, padded_vocab_size
from megatron_oreal.plan.build import Role
from megatron_oreal.plan.memory import GRADIENT_BYTES, Formula

FLOAT = 4
PADDING = 1.1
"""Tokens of the rows that attention pads to the longest trajectory of a micro-batch, for each token: packing puts long ones together."""


@dataclass(frozen=True)
class CpuFormula(Formula):
    """Bytes of a model's parts on one rank without a GPU."""

    def layer(self) -> float:
        """What one layer keeps of a micro-batch for its backward pass, its input included."""
        work, hf, tp = self.work, self.hf, self.work.parallel.tp
        column, stream, _, projection = self._sizes
        tokens, (queries, keys) = work.tokens // work.parallel.cp, self._heads
        # Of both norms: the input and its normalised form, in float32, the output, and a factor.
        kept = 2 * (self._float(stream) * 2 + stream + tokens * FLOAT)
        # q, k and v as projected; q and k rotated; all three in padded rows, what attention makes of them there, and that without padding.
        kept += column / tp * ((queries + 2 * keys) + (queries + keys) + PADDING * (2 * queries + 2 * keys) + queries)
        kept += tokens * (8 + PADDING * FLOAT * hf.num_attention_heads / tp)  # where tokens lie in the rows; attention's normalisers
        kept += 4 * column * head_dim(hf)  # cosines and sines, for q and for k
        if FAMILIES[hf.model_type][1]:  # norms of q and k
            kept += tokens * FLOAT * (2 * queries + keys) / tp
        return kept + 3 * projection  # SwiGLU: its input, twice as wide, and its output

    def _float(self, size: float) -> float:
        """Of the same numbers in float32."""
        return size * FLOAT / self.number

    def _head(self) -> tuple[float, float, bool]:
        """Bytes of the LM head's gradient in float32, of the float32 logits of a chunk, and whether there are several chunks."""
        parallel, hf, tokens = self.work.parallel, self.hf, self.work.tokens // self.work.parallel.cp
        rows = padded_vocab_size(hf, parallel.tp) // parallel.tp
        return GRADIENT_BYTES * rows * hf.hidden_size, FLOAT * rows * min(chunk_tokens(rows), tokens), tokens > chunk_tokens(rows)

    def _logits(self) -> float:
        """The forward pass of the log-probabilities: logits and exponentials of a chunk, and the next one's logits before they go."""
        _, chunk, several = self._head()
        return (2 + several) * chunk

    def logprobs(self, stage: int) -> float:
        """Workspace of the log-probabilities at its peak (model.logprobs); 0 but on the last stage."""
        if stage < self.work.parallel.pp - 1:
            return 0.0
        whole, (gradient, chunk, several) = self._sizes[2], self._head()
        backward = (1 + several) * chunk
        if self.number != FLOAT:
            backward = max(backward, gradient + chunk)  # with a chunk's part of the head's gradient
        return whole + max(self._logits(), backward + whole)

    def _backward(self, role: Role, stage: int) -> float:
        """The most that forward and backward passes hold beside weights, gradients and optimizer."""
        parallel, (_, stream, _, projection) = self.work.parallel, self._sizes
        parts, layers = self._in_flight(stage)
        again, last = self.recomputed(), stage == parallel.pp - 1
        kept = parts * layers * (self.layer() - again) + parts * stream * (parallel.pp > 1) + self.buffer()
        # SwiGLU's gradients: of its output, of both parts of its input, and these joined; and the residual stream's.
        at_a_layer = again + (again > 0) * stream + 5 * projection + stream
        at_the_end = parts * stream * (parallel.pp > 1)
        if stage == 0:
            at_the_end += self._head()[0]  # the embedding's
        at_the_head = 2 * self._float(stream) + self.logprobs(stage) if role == "policy" and last else 0.0
        return max(kept + at_a_layer, kept + at_the_head, at_the_end)

    def _forward(self, stage: int) -> float:
        """The most that a forward pass without gradients holds: a layer's SwiGLU, or logits."""
        parallel, (column, stream, whole, projection) = self.work.parallel, self._sizes
        layers = 5 * projection + 4 * stream + (parallel.vpp or 1) * 2 * column * head_dim(self.hf)
        if stage < parallel.pp - 1:
            return layers + 2 * stream
        return max(layers, whole + 2 * self._float(stream) + self._logits())
