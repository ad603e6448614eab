"""What a step costs, and its trace: real ranks that train."""

import gzip
import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from megatron_oreal.devices import bf16_peak, known_as
from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.packing import Cost
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.gpt import head_dim
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.config import ProfileConfig
from megatron_oreal.monitor.meter import TRAINING, Meter
from megatron_oreal.monitor.profiler import Profiler
from megatron_oreal.monitor.ranges import StageRanges
from megatron_oreal.trajectory import Sample, TrainBatch
from tests.learn.test_oreal_step import FROZEN, STEPS, make_batches, train_config
from tests.settings import profile_config

SLOWER_S = 0.4
PEAK = 1e9


def trained(model: str, parallel: dict, run_dir: str) -> list[tuple[dict[str, float], float, float]]:
    """Of each step the meter's metrics, the FLOPs and the seconds; steps 2 and 3 are traced. The second rank is slow to evaluate."""
    settings = train_config(model, parallel)
    with (
        Ranks(settings.parallel, settings.seed) as ranks,
        Profiler(profile_config(kind="torch", first=2, steps=2), run_dir, ranks) as profiler,
    ):
        learner = Learner(settings, ranks)
        meter = Meter(ranks, learner.cost, "bfloat16")
        assert meter._peak is None  # nothing is claimed of a CPU
        meter._peak = PEAK
        results = []
        for step, batch in enumerate(make_batches(), 1):
            ranks.enter("load")
            meter.begin()
            profiler.begin(step)
            started = time.perf_counter()
            changed = learner.train(batch, step).policy_changed
            ranks.enter("evaluate")
            time.sleep(SLOWER_S * ranks.placement.rank)
            metrics = meter.end(batch, changed)
            results.append((metrics, learner.cost.flops(batch.samples, changed), time.perf_counter() - started))
        assert meter.end(TrainBatch(), False).keys() & {"perf/tokens_per_second", "perf/mfu"} == set()
    return results


def test_costs_are_of_all_ranks_and_traces_have_the_stages(ranks, tiny_model, tmp_path):
    first, second = ranks(2, trained, tiny_model(), {"dp": 2}, str(tmp_path))
    assert [metrics for metrics, *_ in first] == [metrics for metrics, *_ in second]
    for (metrics, flops, seconds), batch in zip(first, make_batches(), strict=True):
        training = sum(metrics[f"time/{stage}"] for stage in TRAINING)
        assert 0 < training + metrics["time/evaluate"] < seconds + 0.1
        assert SLOWER_S / 2 - 0.02 < metrics["time/evaluate"] < SLOWER_S / 2 + 0.3  # the mean of both ranks
        assert metrics["perf/tokens_per_second"] == pytest.approx(sum(s.length for s in batch.samples) / training)
        assert metrics["perf/tokens_per_second_per_gpu"] == pytest.approx(metrics["perf/tokens_per_second"] / 2)
        assert metrics["perf/mfu"] == pytest.approx(flops / training / 2 / PEAK)
        assert 0.05 < metrics["memory/peak_rss_gib"] < 20
    assert first[0][0]["time/policy"] == 0 and all(metrics["time/policy"] > 0 for metrics, *_ in first[FROZEN:])
    files = sorted((tmp_path / "profile").iterdir())
    assert [path.name for path in files] == [f"step-00002-rank-0000{rank}.json.gz" for rank in range(2)]
    for path in files:
        ranges = Counter(e["name"] for e in events(path) if e.get("cat") == "user_annotation")
        wanted = {"token_rm": 2, "reference": 2, "policy": 2, "optimizer": 4, "evaluate": 2, "load": 2}
        assert {name: ranges[name] for name in wanted} == wanted, path
        assert any(e["name"] == "aten::mm" for e in events(path))


def events(path: Path) -> list[dict]:
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_a_run_that_ends_early_leaves_its_trace_and_no_profile_is_no_file(ranks, tiny_model, tmp_path):
    assert STEPS < 9
    ranks(1, profile_around_nothing, str(tmp_path / "late"), profile_config(kind="torch", first=1, steps=9))
    assert [path.name for path in (tmp_path / "late" / "profile").iterdir()] == ["step-00005-rank-00000.json.gz"]
    ranks(1, profile_around_nothing, str(tmp_path / "none"), profile_config())
    assert not (tmp_path / "none").exists()


def profile_around_nothing(run_dir: str, config: ProfileConfig) -> None:
    """Step 5 is the first of a resumed run, and its last."""
    settings = train_config("unused", {})
    with Ranks(settings.parallel, settings.seed) as ranks, Profiler(config, run_dir, ranks) as profiler:
        profiler.begin(5)
        ranks.enter("rollout")


def test_flops_are_those_that_torch_counts(tiny_model):
    """transformers computes all of the attention scores, of which the causal mask leaves half, and logits where they are asked for."""
    folder = tiny_model(hidden_size=64, intermediate_size=160)
    policy, reference, rm = (AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager") for _ in range(3))
    prompt, response = list(range(1, 21)), list(range(1, 31))
    ids = torch.tensor([prompt + response])
    with FlopCounterMode(display=False) as counter:
        rm.model(ids).last_hidden_state.sum().backward()
        with torch.no_grad():
            reference(ids, logits_to_keep=len(response))
        policy(ids, logits_to_keep=len(response)).logits.sum().backward()
    hf = policy.config
    layers = Cost.of(hf, head_dim(hf))
    full = Cost(layers.linear, 2 * layers.quadratic)
    sample = Sample("q", prompt, response, 1, 0.0, 0.5, 0)
    # The rest of that count are the angles of the rotary embedding.
    assert StepCost.of(hf, full, True, True).flops([sample], policy=True) == pytest.approx(counter.get_total_flops(), rel=2e-3)
    assert StepCost.of(hf, layers, True, True).flops([sample, sample], policy=False) == 2 * 3 * layers(50)
    assert StepCost.of(hf, layers, False, False).flops([sample], policy=True) == 3 * (layers(50) + 2 * 64 * 97 * 30)


def test_a_peak_is_stated_of_known_gpus_alone():
    assert bf16_peak("NVIDIA H100 80GB HBM3") == bf16_peak("NVIDIA H200") == 989e12
    assert bf16_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert bf16_peak("NVIDIA H100 PCIe") == 756e12
    assert [bf16_peak(name) for name in ("NVIDIA A100 80GB PCIe", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 4090")] == [None] * 3


def test_the_planner_finds_its_device_by_cudas_name():
    known = {
        "NVIDIA H100 80GB HBM3": "h100-80g",
        "NVIDIA H100 PCIe": "h100-pcie",
        "NVIDIA A100-SXM4-80GB": "a100-80g",
        "NVIDIA A100-SXM4-40GB": "a100-40g",
        "NVIDIA H200": "h200",
        "NVIDIA H20": "h20",
        "NVIDIA B200": "b200",
        "NVIDIA GB200": "gb200",
        "NVIDIA L40S": None,
    }
    assert {name: known_as(name) for name in known} == known


def test_nvtx_ranges_are_closed_before_the_next_is_opened(monkeypatch):
    """Where there is no GPU, on stand-ins for CUDA's calls: what is pushed is popped, after the GPU has done the stage's work."""
    said = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append("wait"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", said.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: said.append("pop"))
    stages = StageRanges(Platform(torch.device("cuda", 0), "nccl"))
    for stage in ("rollout", "policy"):
        stages.enter(stage)
    stages.leave()
    stages.restart()
    assert said == ["rollout", "wait", "pop", "policy", "wait", "pop"]
    assert stages.seconds("policy") == 0 and stages.stage == ""
