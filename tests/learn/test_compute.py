"""Recomputation changes nothing but memory, bf16 keeps fp32 master weights, and kernels that are not there are refused in one line."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from megatron.core.transformer.mlp import MLP

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.config import TokenRMConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import cpu_layers, gpt, hf_weights
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.model.hf_files import read_config
from megatron_oreal.model.platform import Platform
from megatron_oreal.trajectory import Sample, TrainBatch
from tests.settings import compute_config, optimizer, policy_config, tiny_run

CPU = Platform(torch.device("cpu"), "gloo")


def settings(model: str, parallel: dict, dtype: str = "float32", lr: float = 3e-3, **compute) -> TrainConfig:
    plain, others = (optimizer(rate, warmup_steps=1, weight_decay=0.0) for rate in (lr, 3e-3))
    return tiny_run(
        model,
        parallel,
        steps=3,
        model=ModelConfig(model, dtype),
        compute=compute_config(**compute),
        policy=policy_config(optimizer=plain, freeze_steps=0),
        token_rm=TokenRMConfig(others),
    )


def make_batch() -> TrainBatch:
    generator = torch.Generator().manual_seed(2)
    tokens = [torch.randint(1, 97, (20,), generator=generator).tolist() for _ in range(4)]
    return TrainBatch([Sample("q", t[:5], t[5:], 1 - 2 * (i % 2), 1.0 - 2 * (i % 2), 0.5, 0) for i, t in enumerate(tokens)])


def train(run: TrainConfig) -> tuple[list[dict], dict, Counter]:
    """Metrics of each step, this stage's final weights, and how often attention and feed-forward were computed."""
    calls = Counter()

    def count(name: str, part: type) -> None:
        forward = part.forward

        def counted(self, *args, **kwargs):
            calls[name] += 1
            return forward(self, *args, **kwargs)

        part.forward = counted

    count("core_attn", cpu_layers.CpuCoreAttention)
    count("mlp", MLP)
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    metrics = [learner.train(make_batch(), step).metrics for step in range(1, run.steps + 1)]
    weights = {n: t.float().clone().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}
    ranks.stop()
    return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in metrics], weights, calls


@pytest.mark.parametrize("parallel", [{}, {"tp": 2, "sequence_parallel": True}, {"pp": 2}], ids=["tp1", "tp2-sp", "pp2"])
def test_recomputation_changes_nothing_and_happens(ranks, tiny_model, parallel):
    world = 2 if parallel else 1
    plain = ranks(world, train, settings(tiny_model(), parallel))
    for how in ("core_attn", "mlp", "full"):
        again = ranks(world, train, settings(tiny_model(), parallel, recompute=how))
        for (metrics, weights, calls), (expected, expected_weights, once) in zip(again, plain, strict=True):
            assert metrics == [pytest.approx(step, rel=1e-6) for step in expected]
            assert all(weights[n] == pytest.approx(w, rel=1e-6, abs=1e-7) for n, w in expected_weights.items())
            for part in ("core_attn", "mlp"):  # the reference's is computed once in any case, those of the trained models twice
                assert (calls[part] > once[part]) == (how in (part, "full")), part


def train_in_bf16(run: TrainConfig) -> tuple[list[dict], float, float, set]:
    """Metrics; the shares of bf16 weights and of fp32 master weights that changed; and what has which dtype."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    before = [p.detach().clone() for p in learner.policy.gpt[0].parameters()]
    masters = _masters(learner.policy)
    masters_before = [m.clone() for m in masters]
    metrics = [learner.train(make_batch(), step).metrics for step in range(1, run.steps + 1)]
    moved = _share_changed(before, learner.policy.gpt[0].parameters())
    masters_moved = _share_changed(masters_before, masters)
    dtypes = {("master", m.dtype) for m in masters} | {("weight", p.dtype) for p in before}
    dtypes |= {("gradient", p.main_grad.dtype) for p in learner.policy.gpt[0].parameters()}
    dtypes |= {("reference", p.dtype) for p in learner.reference.chunks[0].parameters()}
    ranks.stop()
    return metrics, moved, masters_moved, {(what, str(dtype)) for what, dtype in dtypes}


def _share_changed(before, after) -> float:
    pairs = list(zip(before, after, strict=True))
    return float(sum((a != b).sum() for a, b in pairs)) / sum(a.numel() for a, _ in pairs)


def _masters(model: Trainable) -> list[torch.Tensor]:
    return [p for one in model.optimizer.chained_optimizers for group in one.optimizer.param_groups for p in group["params"] if len(p)]


@pytest.mark.parametrize("parallel", [{}, {"tp": 2}, {"pp": 2}, {"dp": 2}], ids=["tp1", "tp2", "pp2", "dp2"])
def test_bf16_trains_near_fp32_on_fp32_master_weights(ranks, tiny_model, parallel):
    expected, _, _ = ranks(1, train, settings(tiny_model(), {}))[0]
    run = settings(tiny_model(), parallel, "bfloat16")
    for metrics, moved, masters_moved, dtypes in ranks(2 if parallel else 1, train_in_bf16, run):
        assert moved > 0.1 and masters_moved > 0.5
        assert dtypes == {
            ("master", "torch.float32"),
            ("weight", "torch.bfloat16"),
            ("gradient", "torch.float32"),
            ("reference", "torch.bfloat16"),
        }
        for step, row in zip(metrics, expected, strict=True):
            for name in ("loss/token_rm", "grad_norm/token_rm", "loss/positive", "loss/negative"):
                assert step[name] == pytest.approx(row[name], rel=0.1, abs=5e-3), name


def test_updates_below_a_bf16_ulp_add_up_in_the_master_weights(ranks, tiny_model):
    _, moved, masters_moved, _ = ranks(1, train_in_bf16, settings(tiny_model(), {}, "bfloat16", lr=1e-6))[0]
    assert masters_moved > 0.5 and moved < 0.05, (moved, masters_moved)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fp8": "hybrid"}, "compute.fp8=hybrid needs a GPU"),
        ({"adam": "apex"}, "compute.adam=apex needs a GPU"),
        ({"attention": "flash"}, "compute.attention=flash needs a GPU"),
        ({"fused_weight_gradients": True}, "compute.fused_weight_gradients=True needs a GPU"),
        ({"logprobs": "fused"}, "compute.logprobs=fused needs a GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_on_cpu(asked, message):
    with pytest.raises(ValueError, match=message):
        Compute.find(compute_config(**asked), "float32", CPU)


@pytest.mark.parametrize(
    ("asked", "dtype", "installed", "message"),
    [
        ({}, "bfloat16", (), "needs transformer-engine, which is not installed"),
        ({"attention": "flash"}, "bfloat16", ("transformer_engine",), "compute.attention=flash needs flash-attn"),
        ({"adam": "apex"}, "bfloat16", ("transformer_engine",), "compute.adam=apex needs Apex"),
        ({"logprobs": "fused"}, "bfloat16", ("transformer_engine",), "compute.logprobs=fused needs triton, which is not installed"),
        ({"fp8": "hybrid"}, "float32", ("transformer_engine",), "compute.fp8=hybrid needs model.dtype=bfloat16, not float32"),
    ],
)
def test_kernels_that_are_not_installed_are_refused_on_gpu(monkeypatch, asked, dtype, installed, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    with pytest.raises(ValueError, match=message):
        Compute.find(compute_config(**asked), dtype, Platform(torch.device("cuda"), "nccl"))


def made_with_fused_weight_gradients(run: TrainConfig) -> bool:
    """Made alone: on a CPU there is no kernel to train it with."""
    with Ranks(run.parallel, run.seed) as ranks:
        compute = replace(Compute.find(run.compute, run.model.dtype, ranks.platform), config=compute_config(fused_weight_gradients=True))
        compute.install()
        [chunk] = gpt.build(read_config(run.model.path), "policy", run.parallel, compute)
        return chunk.config.gradient_accumulation_fusion


def test_fused_weight_gradients_need_no_apex(ranks, tiny_model):
    assert ranks(1, made_with_fused_weight_gradients, settings(tiny_model(), {})) == [True]


@pytest.mark.parametrize(
    ("asked", "installed", "found"), [("auto", ("triton",), "fused"), ("auto", (), "chunked"), ("chunked", ("triton",), "chunked")]
)
def test_log_probabilities_are_fused_where_triton_is(monkeypatch, asked, installed, found):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in ("transformer_engine", *installed) else None)
    gpu = Platform(torch.device("cuda"), "nccl")
    assert Compute.find(compute_config(logprobs=asked), "bfloat16", gpu).logprobs == found
    assert Compute.find(compute_config(), "float32", CPU).logprobs == "chunked"


def test_the_line_says_what_is_in_use():
    line = Compute.find(compute_config(recompute="full"), "float32", CPU).line()
    assert line.startswith(
        "compute: CPU with gloo, Megatron's local layers, own norm and attention, float32, recompute full, fp8 none, AdamW"
    )
