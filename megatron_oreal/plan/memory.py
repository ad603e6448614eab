"""Bytes that a training rank holds, by formula: what `build` measures on the real models, in microseconds (tests/plan compares them).

Names: h hidden size, f feed-forward size, s tokens of a micro-batch on a rank (its context-parallel part), and b bytes of a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.model import shape
from megatron_oreal.model.architecture import FAMILIES
from megatron_oreal.model.config import ONE_RANK, Layout
from megatron_oreal.plan.build import Built, Role

NUMBER_BYTES = {"bfloat16": 2, "float32": 4}
GRADIENT_BYTES = 4
"""learn.optimizer has Megatron keep and reduce gradients in float32."""
ADAM_BYTES = {"bfloat16": 12, "float32": 8}
"""Of a parameter, over the data-parallel (and context-parallel) ranks: float32 master weight and two moments. In float32 the model's
weights are the masters."""
HOST_ADAM_BYTES = 12
"""The same on the host, where master weights lie apart from the model's (optimizer.on_host)."""


def adam_bytes(dtype: str, moments: str) -> int:
    """ADAM_BYTES of moments in less than float32 (optimizer.moments)."""
    return ADAM_BYTES[dtype] - 2 * (NUMBER_BYTES["float32"] - NUMBER_BYTES[moments])


@dataclass(frozen=True)
class Workload:
    """What a layout has to compute with and on."""

    parallel: Layout
    recompute: str
    dtype: str
    gpus: int
    tokens: int  # of a micro-batch, over all context-parallel ranks
    micro_batches: int  # of a step, a rank
    logprobs: str  # "chunked" or "fused"


@dataclass(frozen=True)
class Formula:
    """Bytes of a model's parts on one rank."""

    hf: object  # transformers config
    work: Workload

    def stage(self, role: Role, stage: int) -> Built:
        """What `build` would say."""
        work, count = self.work, self.parameters(role, stage)
        weights = count * NUMBER_BYTES[work.dtype]
        if role == "reference":
            return Built(role, stage, count, weights, 0, 0, round(self._forward(stage)))
        shards = work.gpus // (work.parallel.tp * work.parallel.pp)
        optimizer = count * ADAM_BYTES[work.dtype] // shards
        return Built(role, stage, count, weights, count * GRADIENT_BYTES, optimizer, round(self._backward(role, stage)))

    def placed(self, models: Sequence[Built], optimizers: Mapping[Role, OptimizerConfig]) -> list[Built]:
        """The same with each model's optimizer as it is asked for, and where."""
        return [self._placed(m, optimizers[m.role]) if m.role in optimizers else m for m in models]

    def _placed(self, model: Built, optimizer: OptimizerConfig) -> Built:
        shards = self.work.gpus // (self.work.parallel.tp * self.work.parallel.pp)
        if optimizer.on_host:
            return replace(model, optimizer=0, on_host=HOST_ADAM_BYTES * model.parameters // shards)
        if optimizer.moments == "float32":
            return model
        each = adam_bytes(self.work.dtype, optimizer.moments)
        return replace(model, optimizer=each * model.parameters // shards, saved=each)

    def parameters(self, role: Role, stage: int) -> int:
        """Number on one rank."""
        hf, parallel = self.hf, self.work.parallel
        tp, h = parallel.tp, hf.hidden_size
        qkv_bias, qk_norm = FAMILIES[hf.model_type]
        queries, keys = self._heads
        layer = h * (2 * queries + 2 * keys + 3 * hf.intermediate_size) // tp + 2 * h
        layer += (queries + 2 * keys) // tp * qkv_bias + 2 * shape.head_dim(hf) * qk_norm
        vocabulary = shape.padded_vocab_size(hf, tp) // tp * h
        first, last = stage == 0, stage == parallel.pp - 1
        tied = role != "token_rm" and hf.tie_word_embeddings
        head = h if role == "token_rm" else vocabulary * (not tied or not first)
        return layer * self._layers + first * vocabulary + last * (h + head)

    @property
    def _layers(self) -> int:
        return self.hf.num_hidden_layers // self.work.parallel.pp

    @property
    def _heads(self) -> tuple[int, int]:
        """Channels of all queries, of all keys."""
        head_dim = shape.head_dim(self.hf)
        return self.hf.num_attention_heads * head_dim, self.hf.num_key_value_heads * head_dim

    @property
    def number(self) -> int:
        """Bytes of a weight, and of an activation."""
        return NUMBER_BYTES[self.work.dtype]

    @property
    def _sizes(self) -> tuple[int, float, float, float]:
        """Bytes of [s, 1], of the residual stream [s(/tp), h], of the whole of it [s, h], and of one projection [s, f/tp]."""
        parallel = self.work.parallel
        column = self.work.tokens // parallel.cp * NUMBER_BYTES[self.work.dtype]
        whole = column * self.hf.hidden_size
        stream = whole / parallel.tp if parallel.sequence_parallel else whole
        return column, stream, whole, column * self.hf.intermediate_size / parallel.tp

    def layer(self) -> float:
        """What one layer keeps of a micro-batch for its backward pass (see plan.kernels), its input included."""
        tp, hf = self.work.parallel.tp, self.hf
        column, stream, _, projection = self._sizes
        (queries, keys), head_dim = self._heads, shape.head_dim(hf)
        qk_norm = FAMILIES[hf.model_type][1]
        # Both norms' inputs and outputs; the fused q, k, v; q and k rotated (and, in Qwen3, normed before); attention's output.
        kept = 4 * stream + column * ((queries + 2 * keys) + (1 + qk_norm) * (queries + keys) + queries) / tp
        kept += 4 * column * head_dim  # cosines and sines, for q and for k
        if self.work.recompute != "core_attn":
            kept += self.work.tokens // self.work.parallel.cp * 4 * hf.num_attention_heads / tp  # attention's normalisers
        return kept + 3 * projection  # SwiGLU's input, twice as wide, and its output

    def recomputed(self) -> float:
        """Of that what a layer does not keep, and has again in its own backward pass."""
        _, stream, _, projection = self._sizes
        return {"full": self.layer() - stream, "mlp": 3 * projection}.get(self.work.recompute, 0.0)

    def logprobs(self, stage: int) -> float:
        """Workspace of the log-probabilities at its peak, in their backward pass (model.logprobs); 0 but on the last stage."""
        parallel, h = self.work.parallel, self.hf.hidden_size
        if stage < parallel.pp - 1:
            return 0.0
        whole = self._sizes[2]
        rows = shape.padded_vocab_size(self.hf, parallel.tp) // parallel.tp
        number, mine = NUMBER_BYTES[self.work.dtype], self.work.tokens // parallel.cp
        # Hidden states of the response tokens and their gradient, and that of a chunk's logits.
        if self.work.logprobs == "fused":
            return 2 * whole + min(shape.fused_chunk_tokens(rows, number), mine) * rows * number
        # The same, of smaller chunks, and a chunk's part of the head's gradient.
        return 2 * whole + rows * h * number + min(shape.chunk_tokens(rows), mine) * rows * number

    def _in_flight(self, stage: int) -> tuple[int, int]:
        """(parts of the model that have passed forward and not backward at one time, layers of such a part), on this stage."""
        parallel, n = self.work.parallel, self.work.micro_batches
        if parallel.vpp is None:
            return min(n, parallel.pp - stage), self._layers
        warm_up = 2 * (parallel.pp - stage - 1) + (parallel.vpp - 1) * parallel.pp
        return min(n * parallel.vpp, warm_up + 1), self._layers // parallel.vpp

    def buffer(self) -> float:
        """Megatron's buffer for gathering the residual stream of all TP ranks; it stays."""
        return self._sizes[2] if self.work.parallel.sequence_parallel else 0.0

    def put_together(self) -> float:
        """What reading a checkpoint copies: files have both halves of SwiGLU's input apart, the model has them in one."""
        hf = self.hf
        return 2 * hf.intermediate_size * hf.hidden_size / self.work.parallel.tp * self._layers * self.number

    def _backward(self, role: Role, stage: int) -> float:
        """The most that forward and backward passes hold beside weights, gradients and optimizer."""
        _, stream, _, projection = self._sizes
        parts, layers = self._in_flight(stage)
        again, last = self.recomputed(), stage == self.work.parallel.pp - 1
        # A part's output is kept beside its layers' inputs: Megatron frees it with the backward pass.
        kept = parts * (layers * (self.layer() - again) + stream) + last * stream
        # In the backward pass of SwiGLU: gradients of its output and, twice as wide, of its input, one temporary, and the output's.
        layer = again + (again > 0) * stream + 4 * projection + stream
        logprobs = self.logprobs(stage) if role == "policy" else 0.0
        return kept + self.buffer() + max(layer, logprobs)

    def _forward(self, stage: int) -> float:
        """The most that a forward pass without gradients holds: SwiGLU's input, output and a temporary, or logits."""
        parallel, number = self.work.parallel, NUMBER_BYTES[self.work.dtype]
        _, stream, whole, projection = self._sizes
        mine, chunks, last = self.work.tokens // parallel.cp, parallel.vpp or 0, stage == parallel.pp - 1
        # The residual stream around attention, its norm, what comes from other stages and, kept for each chunk, what goes to them.
        streams = 4 + (chunks + (stage > 0) if chunks else (not last) * (1 + (stage > 0)))
        layers = 4 * projection + streams * stream + max(chunks, 1) * mine * shape.head_dim(self.hf) * 4  # angles, in float32
        if not last:
            return layers
        rows = shape.padded_vocab_size(self.hf, parallel.tp) // parallel.tp
        if self.work.logprobs == "fused":
            at_the_head = 6 * 4 * mine * -(-rows // shape.STRIP)  # sums of all strips, and those on the way to one sum
        else:
            # Of a chunk: logits in float32, their exponentials, the chunk's before, which still lives, and what float32 was made from.
            at_the_head = (12 + (number if number < 4 else 0)) * min(shape.chunk_tokens(rows), mine) * rows
        return max(layers, whole + at_the_head + (2 + chunks) * stream)


def whole(hf) -> int:
    """Parameters of the whole model."""
    return Formula(hf, Workload(ONE_RANK, "none", "bfloat16", 1, 1, 1, "fused")).parameters("policy", 0)
