"""Where the models start from, how they are cut over ranks, and what they are computed with. Defaults and meanings stand in conf/."""

from dataclasses import dataclass

from megatron_oreal.checked import Checked, FilePath, Require

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ModelConfig(Checked):
    """Where policy, token RM and reference start from: conf/model/."""

    path: FilePath
    dtype: str

    def check(self, require: Require) -> None:
        require(self.dtype in DTYPES, f"dtype={self.dtype!r} is not one of {', '.join(DTYPES)}")


def sequence_multiple(cp: int) -> int:
    """Every sequence is padded to a multiple of this: context parallelism cuts it into 2 cp equal parts (model.split)."""
    return 2 * cp if cp > 1 else 1


@dataclass(frozen=True)
class Layout(Checked):
    """How a model is cut over ranks; the data-parallel ones hold it again."""

    tp: int
    pp: int
    vpp: int | None
    cp: int
    sequence_parallel: bool

    def check(self, require: Require) -> None:
        for name in ("tp", "pp", "cp"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.vpp is None or (self.vpp > 1 and self.pp > 1), f"vpp={self.vpp} must be above 1 and needs parallel.pp > 1")
        require(self.tp > 1 or not self.sequence_parallel, "sequence_parallel=true needs parallel.tp > 1")


ONE_RANK = Layout(tp=1, pp=1, vpp=None, cp=1, sequence_parallel=False)
"""The whole model."""


@dataclass(frozen=True)
class ComputeConfig(Checked):
    """Recomputation, number formats and optional kernels: conf/compute/. What is there is found at start (model.compute)."""

    recompute: str
    fp8: str
    adam: str
    attention: str
    fused_weight_gradients: bool
    logprobs: str
    offload: str

    def check(self, require: Require) -> None:
        for name, allowed in (
            ("recompute", ("none", "core_attn", "mlp", "full")),
            ("fp8", ("none", "hybrid", "e4m3")),
            ("adam", ("auto", "te", "apex")),
            ("attention", ("auto", "flash", "fused", "unfused")),
            ("logprobs", ("auto", "chunked", "fused")),
            ("offload", ("none", "gradients", "all")),
        ):
            value = getattr(self, name)
            require(value in allowed, f"{name}={value!r} is not one of {', '.join(allowed)}")
