"""Optional kernels and number formats: asked for by config, found at start, never assumed."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass

import torch
from megatron.core.tensor_parallel import layers
from megatron.core.transformer.enums import AttnBackend

from megatron_oreal.model.config import ComputeConfig
from megatron_oreal.model.platform import Platform

PLAIN = ComputeConfig(
    recompute="none", fp8="none", adam="auto", attention="auto", fused_weight_gradients=False, logprobs="auto", offload="none"
)
"""Asks for nothing that a machine may lack."""
FP8_TOKENS = 16
"""Transformer Engine's FP8 matrix products want dimensions that are multiples of 16, tokens among them."""


@dataclass(frozen=True)
class Compute:
    """What a rank computes with, beyond its platform; every part of it is there."""

    platform: Platform
    dtype: torch.dtype
    config: ComputeConfig
    adam: str  # "te", "apex" or "torch"
    logprobs: str  # "chunked" or "fused"

    @classmethod
    def find(cls, config: ComputeConfig, dtype: str, platform: Platform) -> "Compute":
        """Check what is installed against what is asked for.

        Raises:
            ValueError: one line with the key and what is missing.
        """
        if platform.is_cpu:
            _refuse_gpu_only(config)
            return cls(platform, getattr(torch, dtype), config, "torch", "chunked")
        _need("transformer_engine", "a GPU: its layers are Transformer Engine's", "transformer-engine")
        if config.fp8 != "none" and dtype != "bfloat16":
            raise ValueError(f"compute.fp8={config.fp8} needs model.dtype=bfloat16, not {dtype}")
        if config.attention == "flash":
            _need("flash_attn", "compute.attention=flash", "flash-attn")
        if config.adam == "apex":
            _need("apex", "compute.adam=apex", "Apex with its CUDA extensions")
        if config.logprobs == "fused":
            _need("triton", "compute.logprobs=fused", "triton")
        adam, logprobs = "apex" if config.adam == "apex" else "te", config.logprobs
        if logprobs == "auto":
            logprobs = "fused" if _is_installed("triton") else "chunked"
        return cls(platform, getattr(torch, dtype), config, adam, logprobs)

    @property
    def tokens_multiple(self) -> int:
        """The tokens of a micro-batch on one rank are padded to a multiple of this."""
        return 1 if self.config.fp8 == "none" else FP8_TOKENS

    def transformer_options(self) -> dict:
        """Fields of Megatron's TransformerConfig."""
        options = self.platform.transformer_options() | {"gradient_accumulation_fusion": self.config.fused_weight_gradients}
        if self.config.recompute == "full":
            options |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
        elif self.config.recompute != "none":
            options |= {"recompute_granularity": "selective", "recompute_modules": [self.config.recompute]}
        if self.config.fp8 != "none":
            # Scaled by the tensors of the moment: delayed scaling keeps a history, which policy, reference and token RM would share.
            options |= {"fp8": self.config.fp8, "fp8_recipe": "tensorwise"}
        if not self.platform.is_cpu:
            options["attention_backend"] = AttnBackend[self.config.attention]
        return options

    def install(self) -> None:
        """Where Megatron looks up in its own modules what it may use. Once, before a model or an optimizer is made."""
        if self.config.fused_weight_gradients:
            # Transformer Engine's layers bring it. Megatron asks for Apex's where it makes an output layer; ours reads its weight alone.
            layers._grad_accum_fusion_available = True
        if self.adam == "apex":
            self._use_adam_of_apex()

    def _use_adam_of_apex(self) -> None:
        """Megatron takes Transformer Engine's where it is installed."""
        import megatron.core.optimizer as optimizer
        import megatron.core.optimizer.distrib_optimizer as distributed
        from apex.optimizers import FusedAdam

        optimizer.Adam = distributed.Adam = FusedAdam
        optimizer.USING_PYTORCH_OPTIMIZER = False
        distributed.HAVE_APEX_OR_TE, distributed.USING_TE_OPTIMIZER, distributed.USING_APEX_OPTIMIZER = True, False, True

    def line(self) -> str:
        """For the log: what is in use."""
        config, name = self.config, str(self.dtype).removeprefix("torch.")
        common = f"{name}, recompute {config.recompute}, fp8 {config.fp8}"
        if self.platform.is_cpu:
            return f"compute: CPU with gloo, Megatron's local layers, own norm and attention, {common}, AdamW of torch {torch.__version__}"
        attention = f"attention {config.attention}" + (f" (flash-attn {_version('flash_attn')})" if config.attention == "flash" else "")
        adam = {"te": "Transformer Engine", "apex": "Apex"}[self.adam]
        fused = "on" if config.fused_weight_gradients else "off"
        return (
            f"compute: {torch.cuda.get_device_name()} with NCCL, layers of Transformer Engine {_version('transformer_engine')}, {common}, "
            f"{attention}, FusedAdam of {adam}, fused weight gradients {fused}, {self.logprobs} log-probabilities"
        )


def _refuse_gpu_only(config: ComputeConfig) -> None:
    for name in ("fp8", "adam", "attention", "fused_weight_gradients"):
        value = getattr(config, name)
        if value != getattr(PLAIN, name):
            raise ValueError(f"compute.{name}={value} needs a GPU, and there is none")
    if config.logprobs == "fused":
        raise ValueError("compute.logprobs=fused needs a GPU, and there is none")


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _need(module: str, what: str, package: str) -> None:
    if not _is_installed(module):
        raise ValueError(f"{what} needs {package}, which is not installed")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"
