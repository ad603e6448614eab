"""The one place where CPU and GPU differ in what a layer is made of."""

from dataclasses import dataclass
from functools import partial

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec, get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_oreal.machine import LIBC
from megatron_oreal.model.cpu_layers import CpuCoreAttention, CpuRMSNorm
from megatron_oreal.model.fused_logprobs import Kernels, fused_logprobs
from megatron_oreal.model.logprobs import LogProbs, vocab_parallel_logprobs


@dataclass(frozen=True)
class Platform:
    """What a rank computes with: chosen once at start, handed to whoever needs it."""

    device: torch.device
    backend: str  # of the data plane's collectives: "nccl" or "gloo"

    @classmethod
    def detect(cls, local_rank: int = 0) -> "Platform":
        """CUDA with NCCL where there is a GPU, else the CPU with gloo."""
        if torch.cuda.is_available():
            return cls(torch.device("cuda", local_rank), "nccl")
        return cls(torch.device("cpu"), "gloo")

    @property
    def is_cpu(self) -> bool:
        return self.device.type != "cuda"  # the meta device, too: a model without storage needs no kernels

    def release_cached_memory(self) -> None:
        """Give back what the allocator (torch's on a GPU, else the C library's) keeps for later: another process is to have it."""
        if not self.is_cpu:
            torch.cuda.empty_cache()
        elif hasattr(LIBC, "malloc_trim"):  # glibc
            LIBC.malloc_trim(0)

    def memory_of_others(self) -> int:
        """Bytes of this GPU that other processes hold, and this one beside torch's allocator; 0 on a CPU."""
        if self.device.type != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free - torch.cuda.memory_reserved(self.device)

    def wait(self) -> None:
        """Until the GPU has computed what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def transformer_options(self) -> dict:
        """Fields of TransformerConfig that depend on the platform alone: fused kernels need CUDA."""
        fused = not self.is_cpu
        return {
            "use_cpu_initialization": self.is_cpu,
            "bias_activation_fusion": True,  # SwiGLU keeps its input alone for the backward pass; on a CPU the same, without a fused kernel
            "bias_dropout_fusion": fused,
            "masked_softmax_fusion": fused,
            "apply_rope_fusion": fused,  # on packed sequences the other way waits for the GPU in each layer, and rounds cos and sin to bf16
            "persist_layer_norm": fused,
            "batch_p2p_comm": fused,
            "batch_p2p_sync": False,  # a wait for the whole GPU at each message, that a torch of long ago needed
        }

    def logprobs(self, way: str) -> LogProbs:
        """`way`: "chunked", or "fused", on a GPU with Triton."""
        return vocab_parallel_logprobs if way == "chunked" else partial(fused_logprobs, kernels=self.logprob_kernels())

    def logprob_kernels(self) -> Kernels:
        """Triton's. A machine without a GPU need not have it."""
        from megatron_oreal.model.logprob_kernels import TritonKernels

        return TritonKernels()

    def layer_spec(self, config: TransformerConfig, vp_stage: int | None) -> ModuleSpec | TransformerBlockSubmodules:
        """Transformer Engine's layers on GPU; on CPU Megatron's local layers with our norm and packed attention."""
        if not self.is_cpu:
            return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
        spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
        spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = CpuRMSNorm
        attention = spec.submodules.self_attention.submodules
        attention.core_attention = CpuCoreAttention
        if config.qk_layernorm:
            attention.q_layernorm = attention.k_layernorm = CpuRMSNorm
        layers = get_num_layers_to_build(config, vp_stage, parallel_state.get_pipeline_model_parallel_rank())
        return TransformerBlockSubmodules(layer_specs=[spec] * layers, layer_norm=CpuRMSNorm)
