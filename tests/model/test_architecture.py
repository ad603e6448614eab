"""Whoever starts ranks reads config.json as it is written: that must refuse what transformers' reading of it refuses, and nothing else."""

import json
from pathlib import Path

import pytest

from megatron_oreal.model.architecture import check_positions, check_written
from megatron_oreal.model.gpt import check_architecture
from megatron_oreal.model.hf_files import read_config
from tests.settings import parallel_config

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 8, "max_position_embeddings": 131072}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
WRITTEN = {  # in the forms that are on the hub, and in that of transformers 5
    "qwen2": {"num_key_value_heads": 4, "hidden_act": "silu", "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 4096},
    "qwen3": {"num_key_value_heads": 4, "head_dim": 16, "attention_bias": False, "rope_scaling": None, "rope_theta": 1e6},
    "llama": {"num_key_value_heads": 4, "attention_bias": False, "mlp_bias": False, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
}
CHANGES = {
    "as it is": {},
    "transformers 5": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": None},
    "an older name of the type": {"rope_scaling": {"type": "llama3", **LLAMA3}},
    "stretched": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    "stretched otherwise": {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "low_freq_factor": 2.0}},
    "heads that share unevenly": {"num_key_value_heads": 3},
    "another activation": {"hidden_act": "gelu"},
    "sliding window": {"layer_types": ["sliding_attention"] * 8, "use_sliding_window": True},
    "another architecture": {"model_type": "gemma2"},
}
CUTS = ({}, {"tp": 2}, {"tp": 8}, {"tp": 3}, {"pp": 4}, {"pp": 3}, {"pp": 2, "vpp": 2}, {"pp": 4, "vpp": 3})
LAYOUTS = [parallel_config(**cut) for cut in CUTS]


def said(check, *arguments) -> list[str]:
    try:
        check(*arguments)
    except ValueError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", WRITTEN)
def test_a_config_says_as_written_what_transformers_reads_in_it(tmp_path, kind, change):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **SIZES, **WRITTEN[kind], **CHANGES[change]}))
    for layout in LAYOUTS:
        assert said(check_written, str(tmp_path), layout) == said(check_architecture, read_config(tmp_path), layout)


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_left_to_transformers_is_not_refused(tmp_path, kind):
    """Fields that have a default there."""
    whole = {**SIZES, **WRITTEN[kind]}
    for name in whole:
        left_out = {"model_type": kind, **{key: value for key, value in whole.items() if key != name}}
        (tmp_path / "config.json").write_text(json.dumps(left_out))
        for layout in LAYOUTS:
            assert set(said(check_written, str(tmp_path), layout)) <= set(said(check_architecture, read_config(tmp_path), layout)), name


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_what_is_no_config_is_one_line(tmp_path: Path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"^model\.path: .*config\.json cannot be read \(.*\)$"):
        check_written(str(tmp_path), parallel_config())


@pytest.mark.parametrize(
    ("change", "said_of_it"),
    [
        ({"rope_theta": "10000.0"}, "rope_theta '10000.0' must be a number above 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}}, "rope_parameters.rope_theta '1e6' must be a number above 0"),
        ({"rope_scaling": "yarn"}, "rope_scaling 'yarn' must be a table, or null"),
        ({"rope_theta": None}, "rope_theta None must be a number above 0"),
        ({"torch_dtype": "auto"}, "torch_dtype 'auto' must be what the weights are stored in, float64, float32, float16, bfloat16"),
        ({"head_dim": "16"}, "head_dim '16' must be a whole number, at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads 0 must be a whole number, at least 1"),
        ({"layer_types": "full_attention"}, "layer_types 'full_attention' must be a list"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantization_config: quantized weights cannot be trained; where they are plain, ",
        ),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_one_line(tmp_path, change, said_of_it):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES, **change}))
    (line,) = said(check_written, str(tmp_path), parallel_config())
    assert line.startswith(f"model: {said_of_it}")


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        (None, 1024),
        ({"rope_type": "linear", "factor": 2.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
    ],
)
def test_prompts_and_responses_stay_within_the_positions(tmp_path, rope, positions):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 1024, "rope_scaling": rope}))
    check_positions(str(tmp_path), positions - 1)
    with pytest.raises(ValueError, match=f"rollout.max_total_tokens={positions} must be below the {positions} positions of the model in "):
        check_positions(str(tmp_path), positions)
