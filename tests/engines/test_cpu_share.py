"""What an engine takes of a machine without a GPU."""

import json
from dataclasses import replace

import pytest

from megatron_oreal.config import EvaluateConfig, load
from megatron_oreal.engines import demand
from megatron_oreal.engines.cpu_share import CpuShare, token_bytes
from megatron_oreal.model.shape import read_shape
from tests.settings import rollout_config, shipped

GB = 10**9
QWEN_05B = {"model_type": "qwen2", "vocab_size": 151936, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
QWEN_05B |= {"hidden_size": 896, "intermediate_size": 4864}


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
    assert CpuShare.of(model(2 * 10**6), "float32", small, 8, 8, 20 * GB).threads == 1
    assert CpuShare.of(model(GB), "float32", small, 8, 8, 20 * GB).threads == 8
    assert CpuShare.of(model(GB), "float32", large, 8, 8, 20 * GB).threads == 4
    assert CpuShare.of(model(GB), "float32", rollout_config(tp=4), 8, 2, 20 * GB).threads == 1


def test_the_cache_holds_what_is_asked_as_far_as_memory_allows(model):
    folder = model(GB)
    assert token_bytes(read_shape(folder), "float32", 1) == 2 * 24 * 2 * 64 * 4 == 2 * token_bytes(read_shape(folder), "bfloat16", 1)
    assert token_bytes(read_shape(folder), "float32", 4) == 4 * 24 * 2 * 64 * 4 * 1  # two heads of keys on four ranks

    def cache(free: int, asked: int = 64 * 16, **changes) -> int:
        return CpuShare.of(folder, "float32", rollout_config(**changes), asked, 2, free).cache_tokens

    assert cache(20 * GB, asked=8, max_new_tokens=200, max_total_tokens=400) == 8 * 400
    assert cache(20 * GB) == 65536  # of 64 questions x 16 samples x 16,384 tokens
    assert cache(4 * GB) == GB // (2 * 24 * 2 * 64 * 4)
    assert cache(GB // 100) == 16385  # one whole trajectory in any case
    assert cache(GB // 100, server_args={"max-total-tokens": 10**6}) == 10**6


def test_an_engine_is_asked_for_what_the_run_asks_at_one_time():
    asked = {"data": replace(shipped().data, questions_per_step=4), "rollout": rollout_config(samples=8, in_flight=1.5)}
    assert demand.of_training(replace(shipped(), **asked)) == 6 * 8
    two = asked | {"rollout": rollout_config(samples=8, in_flight=1.5, engines=2)}
    assert demand.of_training(replace(shipped(), **two)) == 3 * 8
    validation = replace(shipped().eval, validation=20, validation_samples=4)
    assert demand.of_training(replace(shipped(), **asked, eval=validation)) == 20 * 4
    evaluated = load(EvaluateConfig, "evaluate", ["model.path=M", "eval.data=F", "eval.samples=4", "rollout.concurrency=10"])
    assert demand.of_evaluation(evaluated) == 10 * 4  # nobody has counted the questions
