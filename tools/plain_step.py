"""The models of oreal/reference.py under torch's FSDP: what bench_step.py compares with, after the released trainer.

float32 weights and Adam's moments under FSDP2 with bfloat16 products, transformers' layers with SDPA, recomputed in the backward pass; one
sequence a forward pass, no packing, dense logits (of the response tokens alone, which is kinder than logits of all).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.oreal.reference import Learner, Models, TokenRM


def sharded_models(config: TrainConfig, device: torch.device) -> Models:
    """On one GPU (or on a CPU, in float32)."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    precision = MixedPrecisionPolicy(param_dtype=getattr(torch, config.model.dtype), reduce_dtype=torch.float32)

    def learner(model: torch.nn.Module, layers: Sequence[torch.nn.Module], o: OptimizerConfig) -> Learner:
        mesh = dist.init_device_mesh(device.type, (1,))
        for part in (*layers, model.to(device).train()):
            fully_shard(part, mesh=mesh, mp_policy=precision)
        adamw = {"weight_decay": o.weight_decay, "betas": tuple(o.betas), "eps": o.eps, "fused": device.type == "cuda"}
        return Learner(model, o.lr, o.min_lr, config.steps, o.warmup_steps, o.clip_grad, **adamw)

    policy, body = (_load(kind, config.model.path, "float32") for kind in (AutoModelForCausalLM, AutoModel))
    for model in (policy, body):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    reference = _load(AutoModelForCausalLM, config.model.path, config.model.dtype).to(device).requires_grad_(False).eval()
    return Models(
        learner(policy, policy.model.layers, config.policy.optimizer),
        learner(TokenRM(body), body.layers, config.token_rm.optimizer),
        reference,
        config.policy.freeze_steps,
    )


def _load(kind, path: str, dtype: str) -> torch.nn.Module:
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the token RM leaves the LM head out, of which it would tell at length
    return kind.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="sdpa")
