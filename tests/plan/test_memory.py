"""The formula against models built at fake ranks (32B: test_plan), shapes against transformers, planned state against real ranks."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model import gpt
from megatron_oreal.model.compute import Compute
from megatron_oreal.plan.build import BuildFailed, Built, Request, build
from megatron_oreal.plan.memory import Formula, Workload, whole
from megatron_oreal.plan.shapes import SHAPES
from tests.settings import compute_config, optimizer, parallel_config

ROLES = ("policy", "token_rm", "reference")
DEADLINE_S = 400
SMALL = {
    "model_type": "qwen2",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def build_and_estimate(fields: dict, work: Workload) -> list[tuple[Built, Built]]:
    hf = AutoConfig.for_model(**fields)
    request = Request(
        json.loads(hf.to_json_string(use_diff=False)),
        work.parallel,
        work.recompute,
        work.dtype,
        work.gpus,
        work.tokens,
        work.micro_batches,
        ROLES,
        work.logprobs,
    )
    formula = Formula(hf, work)
    return [(built, formula.stage(built.role, built.stage)) for built in build(request, DEADLINE_S)]


def assert_agree(pairs: list[tuple[Built, Built]], stages: int) -> None:
    assert len(pairs) == len(ROLES) * stages
    for built, formula in pairs:
        where = (built.role, built.stage)
        assert (formula.parameters, formula.weights, formula.gradients) == (built.parameters, built.weights, built.gradients), where
        assert formula.optimizer == pytest.approx(built.optimizer, rel=1e-3), where  # shards are padded
        assert formula.activations == pytest.approx(built.activations, rel=0.05), where


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_as_many_parameters_as_transformers_says(shape):
    hf = AutoConfig.for_model(**SHAPES[shape])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf)
    assert whole(hf) == sum(p.numel() for p in model.parameters())


def test_formula_and_models_agree_for_7b_on_32_gpus():
    parallel = parallel_config(tp=4, sequence_parallel=True)
    pairs = build_and_estimate(SHAPES["qwen2.5-7b"], Workload(parallel, "full", "bfloat16", 32, 16384, 5, "fused"))
    assert_agree(pairs, stages=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "work"),
    [
        ("qwen2.5-7b", Workload(parallel_config(tp=4, sequence_parallel=True), "mlp", "bfloat16", 32, 16384, 5, "fused")),
        ("qwen2.5-32b", Workload(parallel_config(tp=8, pp=4, sequence_parallel=True), "none", "bfloat16", 128, 16384, 9, "fused")),
        ("qwen2.5-32b", Workload(parallel_config(tp=8, pp=4, vpp=2, sequence_parallel=True), "full", "bfloat16", 128, 16384, 8, "fused")),
        ("qwen2.5-7b", Workload(parallel_config(tp=2, pp=2, cp=2, sequence_parallel=True), "none", "bfloat16", 32, 32768, 5, "fused")),
        ("qwen2.5-7b", Workload(parallel_config(pp=2), "full", "bfloat16", 32, 16384, 5, "chunked")),
        ("qwen2.5-7b", Workload(parallel_config(tp=2), "none", "float32", 2, 4096, 1, "fused")),
        (
            "qwen3-8b",
            Workload(parallel_config(tp=4, pp=2, vpp=3, cp=2, sequence_parallel=True), "core_attn", "bfloat16", 32, 16384, 4, "fused"),
        ),
    ],
    ids=["7b-mlp", "32b-none", "32b-vpp2", "7b-tp2-pp2-cp2", "7b-pp2-chunked", "7b-tp2-float32", "qwen3-vpp3-cp2"],
)
def test_formula_and_models_agree_in_other_layouts(shape, work):
    assert_agree(build_and_estimate(SHAPES[shape], work), work.parallel.pp)


def state_of_a_real_rank(fields: dict, parallel: ParallelConfig) -> tuple[int, int, int, int]:
    """Parameters, and bytes of weights, gradients and optimizer that a rank holds."""
    hf, ranks = AutoConfig.for_model(**fields), Ranks(parallel, 0)
    compute = Compute.find(compute_config(), "bfloat16", ranks.platform)
    trainable = Trainable(gpt.build(hf, "policy", parallel, compute), optimizer(), 5)
    weights = [p for chunk in trainable.gpt for p in chunk.parameters()]
    gradients = {p.main_grad.untyped_storage().data_ptr(): p.main_grad.untyped_storage().nbytes() for p in weights}
    held = [t for one in trainable.optimizer.chained_optimizers for group in one.optimizer.param_groups for t in group["params"]]
    moments = [t for one in trainable.optimizer.chained_optimizers for state in one.optimizer.state.values() for t in state.values()]
    ranks.stop()
    optimizer_bytes = sum(t.nbytes for t in held + [m for m in moments if torch.is_tensor(m)])
    return sum(p.numel() for p in weights), sum(p.nbytes for p in weights), sum(gradients.values()), optimizer_bytes


def test_the_planned_state_is_what_real_ranks_hold(ranks):
    parallel = parallel_config(dp=2)
    real = ranks(2, state_of_a_real_rank, SMALL, parallel)
    [(built, _), *_] = build_and_estimate(SMALL, Workload(parallel, "none", "bfloat16", 2, 256, 1, "fused"))
    for parameters, weights, gradients, _ in real:
        assert (built.parameters, built.weights) == (parameters, weights)
        assert built.gradients == gradients
    assert built.optimizer == pytest.approx(sum(r[3] for r in real) / 2, rel=0.01)


def test_a_build_past_its_deadline_or_of_nonsense_is_one_line():
    work = Workload(parallel_config(), "none", "bfloat16", 1, 256, 1, "fused")
    with pytest.raises(BuildFailed, match="took longer than plan.deadline_s=0"):
        build(Request(SMALL, work.parallel, "none", "bfloat16", 1, 256, 1, ROLES, "fused"), 0.1)
    with pytest.raises(BuildFailed, match="failed with status 1: .*nonsense") as caught:
        build(Request(SMALL | {"model_type": "nonsense"}, work.parallel, "none", "bfloat16", 1, 256, 1, ROLES, "fused"), DEADLINE_S)
    assert "\n" not in str(caught.value)
