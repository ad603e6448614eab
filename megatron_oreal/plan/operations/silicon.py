"""Prices that NVIDIA measured: the tables of aiconfigurator-core, which is asked for operations by their sizes, and never for a model.

It needs no GPU, and answers in microseconds once its tables are read (a second). Handing it sizes keeps it from asking a hub for a model
that it does not know.
"""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from megatron_oreal.plan.operations.prices import NETWORK, Collective, Heads, Stated

SYSTEMS = {"a100-80g": "a100_sxm", "h100-80g": "h100_sxm", "h200": "h200_sxm", "b200": "b200_sxm", "gb200": "gb200"}
"""Its tables of our devices."""
PACKAGE = "aiconfigurator_core"


class Measured:
    """See prices.Prices."""

    def __init__(self, system: str, backend: str, otherwise: Stated):
        import aiconfigurator_core
        from aiconfigurator_core.sdk import common, operations, perf_database
        from aiconfigurator_core.sdk.engine import EngineHandle
        from aiconfigurator_core.sdk.errors import PerfDataNotAvailableError
        from aiconfigurator_core.sdk.operations.attention import resolved_lane_order_for_op

        tables = perf_database.get_database(system, backend, "current")
        self.source = f"{PACKAGE} {tables.version and backend} {tables.version} on {system}"
        self._written: Callable[[list], str] = aiconfigurator_core.ops_json_from_ops
        self._ask, self._ops, self._names = EngineHandle.for_database(tables), operations, common
        self._kernels = {phase: resolved_lane_order_for_op(tables, f"_{phase}_attention_data", None) for phase in ("context", "generation")}
        self._made: dict[tuple, str] = {}
        self._otherwise, self._absent = otherwise, (PerfDataNotAvailableError, ValueError)

    def matmul(self, tokens: float, outputs: int, inputs: int, number: str = "bfloat16") -> float:
        """See prices.Prices."""
        quantised = self._names.GEMMQuantMode[number]
        op = self._op(("matmul", outputs, inputs, number), lambda: self._ops.GEMM("op", 1, outputs, inputs, quantised))
        return self._seconds(op, True, x=tokens) or self._otherwise.matmul(tokens, outputs, inputs, number)

    def decode_attention(self, heads: Heads, batch: int, context: float, number: str = "bfloat16") -> float:
        """See prices.Prices."""
        op = self._op(("decode", heads, number), lambda: self._generation(heads, number))
        return self._seconds(op, False, batch, context) or self._otherwise.decode_attention(heads, batch, context, number)

    def prefill_attention(self, heads: Heads, batch: int, length: int, prefix: int = 0) -> float:
        """See prices.Prices."""
        op = self._op(("prefill", heads), lambda: self._context(heads))
        return self._seconds(op, True, batch, length, prefix) or self._otherwise.prefill_attention(heads, batch, length, prefix)

    def all_reduce(self, tokens: float, width: int, ranks: int) -> float:
        """See prices.Prices."""
        if ranks == 1:
            return 0.0
        op = self._op(("all_reduce", width, ranks), lambda: self._ops.CustomAllReduce("op", 1, width, ranks))
        return self._seconds(op, True, x=tokens) or self._otherwise.all_reduce(tokens, width, ranks)

    def collective(self, kind: Collective, nbytes: float, ranks: int) -> float:
        """See prices.Prices. Of an all-gather the table's size is what a rank ends up with, as ours."""
        if ranks == 1:
            return 0.0
        number = self._names.CommQuantMode.half
        op = self._op(("nccl", kind, ranks), lambda: self._ops.NCCL("op", 1, kind, 1024, ranks, number))
        return self._seconds(op, True, x=nbytes / 2048) or self._otherwise.collective(kind, nbytes, ranks)

    def moved(self, nbytes: float) -> float:
        """See prices.Prices; not measured there either, but its authors' share of the bandwidth."""
        op = self._op(("moved",), lambda: self._ops.ElementWise("op", 1, 512, 0))
        return self._seconds(op, True, x=nbytes / 1024) or self._otherwise.moved(nbytes)

    def _generation(self, heads: Heads, number: str):
        cache = self._names.KVCacheQuantMode[number]
        shape = {"head_size": heads.channels, "use_qk_norm": heads.normed, "lane_order": self._kernels["generation"]}
        return self._ops.GenerationAttention("op", 1, heads.queries, heads.keys, cache, **shape)

    def _context(self, heads: Heads):
        numbers = self._names.KVCacheQuantMode.bfloat16, self._names.FMHAQuantMode.bfloat16
        shape = {"head_size": heads.channels, "use_qk_norm": heads.normed, "lane_order": self._kernels["context"]}
        return self._ops.ContextAttention("op", 1, heads.queries, heads.keys, *numbers, **shape)

    def _op(self, key: tuple, make: Callable[[], Any]) -> str:
        if key not in self._made:
            self._made[key] = self._written([make()])
        return self._made[key]

    def _seconds(
        self, op: str, prefill: bool, batch: float = 1, length: float = 1, prefix: int = 0, x: float | None = None
    ) -> float | None:
        """None where the tables have nothing of the kind (8 bits on an A100, heads of 8 channels)."""
        counts = [max(1, round(n)) for n in (batch, length)]
        tokens = None if x is None else max(1, round(x))
        try:
            [(_, milliseconds, _, _)] = self._ask.evaluate_ops_json(
                op, is_context=prefill, batch_size=counts[0], s=counts[1], prefix=prefix, x=tokens
            )
        except self._absent:
            return None
        return milliseconds / 1e3


@lru_cache(maxsize=8)
def measured(device: str, backend: str) -> Measured | None:
    """Of a device under an engine; None where the package is not installed, or has no such table."""
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    try:
        return Measured(SYSTEMS[device], backend, Stated.of(device, NETWORK))
    except (ImportError, KeyError):
        return None
