"""Predicted against measured peak memory, on one GPU with Transformer Engine's layers. It has never been run yet."""

import json

import pytest
import torch
from transformers import AutoConfig

from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model import gpt
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.split import Split
from megatron_oreal.plan.build import Request, build
from megatron_oreal.trajectory import Sample
from tests.settings import compute_config, optimizer, parallel_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

TOKENS = 8192
FIELDS = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": TOKENS,
    "tie_word_embeddings": False,
}


def measured(recompute: str) -> tuple[int, int]:
    """(bytes of weights, gradients and optimizer; the most that a training pass holds besides), by torch's allocator."""
    hf, ranks = AutoConfig.for_model(**FIELDS), Ranks(parallel_config(), 0)
    compute = Compute.find(compute_config(recompute=recompute), "bfloat16", ranks.platform)
    trainable = Trainable(gpt.build(hf, "policy", parallel_config(), compute), optimizer(), 5)
    for parameter in trainable.gpt[0].parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    sample = Sample("q", [1] * 8, [2] * (TOKENS - 8), 1, 1.0, 0.5, 0)
    micro = batch.pack([sample], 0, Split(), "previous", ranks.platform.device)
    state = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    pipeline.run(trainable.model, [micro], "logprobs", lambda _, out: (out[0].mean(), None), backward=True)
    peak = torch.cuda.max_memory_allocated() - state
    ranks.stop()
    return state, peak


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_real_gpu_holds_what_was_planned(ranks, recompute):
    hf = AutoConfig.for_model(**FIELDS)
    request = Request(
        json.loads(hf.to_json_string(use_diff=False)), parallel_config(), recompute, "bfloat16", 1, TOKENS, 1, ("policy",), "fused"
    )
    [planned] = build(request, 300)
    [(state, peak)] = ranks(1, measured, recompute)
    assert state == pytest.approx(planned.weights + planned.gradients + planned.optimizer, rel=0.02)
    assert 0.5 * planned.activations < peak < 1.1 * planned.activations  # the plan is to be an upper bound, and no idle one
