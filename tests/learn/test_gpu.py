"""The GPU's own path on one GPU: Transformer Engine layers on packed sequences, bf16, fp8. It has never been run yet."""

import dataclasses
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.background_save import HostCopies
from megatron_oreal.learn.megatron_cpu import CpuFusedAdam
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, Models
from megatron_oreal.model.config import ComputeConfig, ModelConfig
from megatron_oreal.model.split import Split
from megatron_oreal.trajectory import Sample
from tests.learn.test_oreal_step import COMPARED, COUNTED, make_batches, train_config, train_plainly
from tests.settings import compute_config

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

UNFUSED = compute_config(attention="unfused")  # the one attention of Transformer Engine that computes in float32


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


def logprobs_of(settings: TrainConfig, samples: list[Sample], on_cpu: bool = False) -> list[float]:
    """[all response tokens] of a policy with the folder's weights, all samples packed into one micro-batch.

    `on_cpu`: by Megatron's local layers, in a process that sees no GPU.
    """
    if on_cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    ranks = Ranks(settings.parallel, settings.seed)
    assert ranks.platform.is_cpu == on_cpu
    policy = Models(settings.model, settings.parallel, settings.compute, ranks).build("policy")
    micro = batch.pack(samples, 0, Split(), "previous", ranks.platform.device)
    policy = [chunk.requires_grad_(False).eval() for chunk in policy]
    [values] = pipeline.run(policy, [micro], "logprobs", lambda _, out: (None, out[0]), backward=False)
    ranks.stop()
    return values.float().tolist()


def logprobs_by_transformers(model: str, samples: list[Sample]) -> torch.Tensor:
    """[all response tokens] in float32 on the CPU, a sample at a time."""
    whole, parts = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), []
    for s in samples:
        with torch.no_grad():
            logits = whole(torch.tensor([s.prompt_ids + s.response_ids])).logits[0, len(s.prompt_ids) - 1 : -1]
        parts.append(logits.log_softmax(-1).gather(1, torch.tensor(s.response_ids)[:, None])[:, 0])
    return torch.cat(parts)


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
        (compute_config(), 0.05),
        (compute_config(attention="fused"), 0.05),
        (compute_config(recompute="full"), 0.05),
        (compute_config(recompute="mlp"), 0.05),
        (compute_config(fused_weight_gradients=True), 0.05),
        (compute_config(fp8="hybrid"), 0.3),
        (compute_config(fp8="hybrid", recompute="full"), 0.3),
    ],
    ids=["auto", "fused", "full", "mlp", "fused-gradients", "fp8", "fp8-full"],
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


def test_transformer_engine_local_layers_and_transformers_give_the_same_logprobs(ranks, model, record_property):
    samples = make_batches()[0].samples
    exact = logprobs_by_transformers(model, samples)
    assert exact.std() > 0.5, "a model whose log-probabilities hardly differ would agree with anything"
    cases = {  # what -> (dtype, back end, on the CPU, most of the mean difference, most of the largest)
        "local layers, float32": ("float32", compute_config(), True, 1e-5, 1e-4),
        "Transformer Engine, float32": ("float32", UNFUSED, False, 5e-3, 0.05),  # it multiplies in TF32
        "Transformer Engine, bfloat16": ("bfloat16", compute_config(), False, 0.15, 1.0),  # local layers on a CPU: 0.054 and 0.27
    }
    for what, (dtype, compute, on_cpu, mean, most) in cases.items():
        [got] = ranks(1, logprobs_of, settings_of(model, dtype, compute), samples, on_cpu)
        apart = (torch.tensor(got) - exact).abs()
        record_property(what, f"mean {apart.mean():.6f}, max {apart.max():.6f}")
        print(f"{what}: mean {apart.mean():.6f}, max {apart.max():.6f}")
        assert apart.mean() < mean and apart.max() < most, what


def test_what_a_checkpoint_writes_is_copied_to_pinned_memory_that_is_kept():
    host = HostCopies()
    for _ in range(2):
        tensors = [torch.randn(7, 5, device="cuda"), torch.arange(3), torch.randn(11, device="cuda").bfloat16()]
        copies = host.of(tensors)
        assert all(torch.equal(copy, tensor.cpu()) for copy, tensor in zip(copies, tensors, strict=True))
        assert copies[0].is_pinned() and copies[1] is tensors[1]
        first = copies[0].data_ptr()
        tensors[0].zero_()
        assert copies[0].any()
    assert host.of(tensors)[0].data_ptr() == first


def train_and_rest(settings: TrainConfig) -> tuple[list[dict[str, float]], int]:
    """The compared metrics of each step, and the bytes that torch holds between steps."""
    ranks = Ranks(settings.parallel, settings.seed)
    learner = Learner(settings, ranks)
    learner.rest_between_turns()
    steps = [learner.train(batch, step).metrics for step, batch in enumerate(make_batches(), 1)]
    held = torch.cuda.memory_allocated()
    ranks.stop()
    return [{name: m[name] for name in COMPARED if name in m} for m in steps], held


def test_models_that_rest_between_their_turns_give_the_same_numbers_and_leave_the_gpu(ranks, model, tmp_path):
    runs = [settings_of(model, "bfloat16", compute_config(attention="unfused", offload=how)) for how in ("none", "all")]
    [(awake, held)], [(resting, left)] = (ranks(1, train_and_rest, dataclasses.replace(run, run_dir=str(tmp_path))) for run in runs)
    assert resting == awake
    assert left < 0.4 * held, "the policy's weights, 2 bytes of some 36 a parameter, and little else"


def test_optimizers_in_host_memory_give_nearly_the_same_numbers_and_leave_the_gpu(ranks, model, tmp_path):
    """Torch's AdamW on the CPU against Transformer Engine's, whose master weights and moments are 12 bytes of some 36 a parameter."""
    run = dataclasses.replace(settings_of(model, "bfloat16", compute_config(attention="unfused")), run_dir=str(tmp_path))
    policy, token_rm = (dataclasses.replace(one.optimizer, on_host=True) for one in (run.policy, run.token_rm))
    policy, token_rm = dataclasses.replace(run.policy, optimizer=policy), dataclasses.replace(run.token_rm, optimizer=token_rm)
    on_host = dataclasses.replace(run, policy=policy, token_rm=token_rm)
    [(there, held)], [(here, left)] = (ranks(1, train_and_rest, one) for one in (run, on_host))
    assert here == [pytest.approx(step, rel=1e-2, abs=1e-4) for step in there]
    assert left < 0.8 * held


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_transformer_engines_adam_with_master_weights_does_what_its_stand_in_does(moments):
    from transformer_engine.pytorch.optimizers import FusedAdam

    start, adams = torch.randn(1000).bfloat16(), []
    for made, device in ((FusedAdam, "cuda"), (CpuFusedAdam, "cpu")):
        parameter = start.clone().to(device)
        adam = made(
            [parameter],
            lr=1e-2,
            betas=(0.9, 0.95),
            weight_decay=0.1,
            master_weights=True,
            exp_avg_dtype=moments,
            exp_avg_sq_dtype=moments,
            use_decoupled_grad=True,
        )
        adam.initialize_state(parameter, False)
        adams.append((adam, parameter, torch.Generator().manual_seed(1)))
    for adam, parameter, generator in adams:
        for _ in range(5):
            parameter.decoupled_grad = torch.randn(1000, generator=generator).to(parameter.device)
            adam.step()
    (real, on_gpu, _), (stand_in, on_cpu, _) = adams
    assert real.state[on_gpu].keys() == stand_in.state[on_cpu].keys()
    for name, value in real.state[on_gpu].items():
        assert value.dtype == stand_in.state[on_cpu][name].dtype
        torch.testing.assert_close(value.cpu().float(), stand_in.state[on_cpu][name].float(), rtol=1e-2, atol=1e-4, msg=name)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-2, atol=1e-3)
