"""The GPU's own path on one GPU: Transformer Engine layers on packed sequences, bf16, fp8. It has never been run yet."""

import dataclasses

import pytest
import torch

from megatron_oreal.config import ComputeConfig, ModelConfig, TrainConfig
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from tests.learn.test_oreal_step import COMPARED, COUNTED, make_batches, train_config, train_plainly

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

UNFUSED = ComputeConfig(attention="unfused")  # the one attention of Transformer Engine that computes in float32


@pytest.fixture
def model(tiny_model) -> str:
    """Sizes that fused attention and fp8 take: multiples of 16 everywhere, heads of 32."""
    return tiny_model(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=32)


def settings_of(model: str, dtype: str, compute: ComputeConfig, **objective) -> TrainConfig:
    return dataclasses.replace(train_config(model, {}, **objective), model=ModelConfig(model, dtype), compute=compute)


def train_on_gpu(runs: list[TrainConfig]) -> list[list[dict[str, float]]]:
    """The compared metrics of each run's steps, one after the other in one process."""
    ranks = Ranks(runs[0].parallel, runs[0].seed)
    assert ranks.platform.backend == "nccl"
    results = []
    for settings in runs:
        learner = Learner(settings, ranks)
        steps = [learner.train(batch, step).metrics for step, batch in enumerate(make_batches(), 1)]
        results.append([{name: m[name] for name in COMPARED if name in m and name not in COUNTED} for m in steps])
    ranks.stop()
    return results


def assert_near(got: list[dict], expected: list[dict], rel: float) -> None:
    for step, (a, b) in enumerate(zip(got, expected, strict=False)):
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=rel, abs=1e-3), (step, key)


def test_transformer_engine_in_float32_gives_the_numbers_of_a_plain_implementation(ranks, model):
    settings = settings_of(model, "float32", UNFUSED)
    expected, _ = train_plainly(settings)  # transformers on the CPU
    [got] = ranks(1, train_on_gpu, [settings])[0]
    assert_near(got, expected, rel=0.02)  # Transformer Engine multiplies float32 matrices in TF32


@pytest.mark.parametrize(
    ("compute", "rel"),
    [
        (ComputeConfig(), 0.05),
        (ComputeConfig(attention="fused"), 0.05),
        (ComputeConfig(recompute="full"), 0.05),
        (ComputeConfig(recompute="selective"), 0.05),
        (ComputeConfig(fp8="hybrid"), 0.3),
        (ComputeConfig(fp8="hybrid", recompute="full"), 0.3),
    ],
    ids=["auto", "fused", "full", "selective", "fp8", "fp8-full"],
)
def test_bfloat16_and_fp8_follow_float32(ranks, model, compute, rel):
    if compute.fp8 != "none" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs a GPU of compute capability 8.9")
    # Without token RM: its weights, scores just beyond a threshold, magnify every rounding.
    runs = [
        settings_of(model, "float32", UNFUSED, token_rm=False),
        settings_of(model, "bfloat16", compute, token_rm=False),
    ]
    expected = ranks(1, train_on_gpu, runs[:1])[0][0]  # a process each: Megatron takes one attention a process
    got = ranks(1, train_on_gpu, runs[1:])[0][0]
    assert_near(got, expected, rel)
