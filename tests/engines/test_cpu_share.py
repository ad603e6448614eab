"""What an engine takes of a machine without a GPU."""

import json

import pytest

from megatron_oreal.engines.cpu_share import CpuShare, cache_bytes_per_token
from tests.settings import rollout_config

GB = 10**9
QWEN_05B = {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}


@pytest.fixture
def model(tmp_path):
    """make(bytes of weights) -> a folder with so many (they take no room) and the shape of Qwen2.5-0.5B."""

    def make(weights: int):
        (tmp_path / "config.json").write_text(json.dumps(QWEN_05B))
        with open(tmp_path / "model.safetensors", "wb") as file:
            file.truncate(weights)
        return tmp_path

    return make


def test_a_small_model_has_one_thread_a_larger_one_the_cores(model):
    small, large = rollout_config(), rollout_config(engines=2)
    assert CpuShare.of(model(2 * 10**6), "float32", small, 8, 20 * GB).threads == 1
    assert CpuShare.of(model(GB), "float32", small, 8, 20 * GB).threads == 8
    assert CpuShare.of(model(GB), "float32", large, 8, 20 * GB).threads == 4
    assert CpuShare.of(model(GB), "float32", rollout_config(tp=4), 2, 20 * GB).threads == 1


def test_the_cache_holds_what_is_asked_as_far_as_memory_allows(model):
    folder = model(GB)
    assert cache_bytes_per_token(folder, "float32") == 2 * 24 * 2 * 64 * 4 == 2 * cache_bytes_per_token(folder, "bfloat16")
    asked = rollout_config(concurrency=2, samples=4, max_new_tokens=200, max_total_tokens=400)
    assert CpuShare.of(folder, "float32", asked, 2, 20 * GB).cache_tokens == 2 * 4 * 400
    preset = rollout_config()  # 64 questions x 16 samples x 16,384 tokens
    assert CpuShare.of(folder, "float32", preset, 2, 20 * GB).cache_tokens == 65536
    assert CpuShare.of(folder, "float32", preset, 2, 4 * GB).cache_tokens == GB // (2 * 24 * 2 * 64 * 4)
    assert CpuShare.of(folder, "float32", preset, 2, GB // 100).cache_tokens == 16385  # one whole trajectory in any case
