"""MFU, memory and the trace of a GPU. It has never been run yet."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
import torch

from megatron_oreal.devices import bf16_peak
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.monitor.meter import Meter
from megatron_oreal.monitor.profiler import Profiler
from tests.learn.test_oreal_step import STEPS, make_batches
from tests.settings import profile_config, tiny_run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def trained(model: str, run_dir: str) -> list[dict[str, float]]:
    settings = tiny_run(model, {}, steps=STEPS, model=ModelConfig(model, "bfloat16"))
    with Ranks(settings.parallel, settings.seed) as ranks, Profiler(profile_config(kind="torch", first=2), run_dir, ranks) as profiler:
        learner = Learner(settings, ranks)
        meter, costs = Meter(ranks, learner.cost, settings.model.dtype), []
        for step, batch in enumerate(make_batches(), 1):
            meter.begin()
            profiler.begin(step)
            costs.append(meter.end(batch, learner.train(batch, step).policy_changed))
    return costs


def test_costs_and_trace_of_a_gpu(ranks, tiny_model, tmp_path):
    model = tiny_model(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    [costs] = ranks(1, trained, model, str(tmp_path))
    for metrics in costs:
        assert 0 < metrics["memory/max_allocated_gib"] <= metrics["memory/max_reserved_gib"] < 80
        assert ("perf/mfu" in metrics) == (bf16_peak(torch.cuda.get_device_name()) is not None)
        assert 0 < metrics.get("perf/mfu", 0.1) < 1
    folder = Path(tmp_path) / "profile"
    events = json.loads(gzip.decompress((folder / "step-00002-rank-00000.json.gz").read_bytes()))["traceEvents"]
    assert {"token_rm", "reference", "policy", "optimizer"} <= {e["name"] for e in events}
    assert any(e.get("cat") == "kernel" for e in events)
    snapshot = pickle.loads((folder / "step-00002-rank-00000.memory.pickle").read_bytes())
    assert snapshot["segments"]
