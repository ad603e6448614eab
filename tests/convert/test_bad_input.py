"""What cannot be converted is one line, and nothing is written."""

import collections
import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.test_round_trip import change_config, change_tensors, stored_as, to_hf, to_megatron


@pytest.fixture
def source(tiny_model, tmp_path) -> Path:
    return stored_as(torch.float32, tiny_model(), tmp_path / "source")


def refused(capsys, status: int, message: str, out: Path) -> None:
    """Exit status, one line on stderr that holds the message, and nothing written."""
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))


def shard(folder: Path, number: int) -> Path:
    return sorted(folder.glob("*.safetensors"))[number]


def cut(file: Path, by: int = 100) -> None:
    os.truncate(file, file.stat().st_size - by)


BAD_HF = {
    "missing shard": (lambda f: shard(f, 1).unlink(), "lacks model-00002-of-"),
    "truncated shard": (lambda f: cut(shard(f, 1)), "is damaged or cut off"),
    "empty shard": (lambda f: shard(f, 1).write_bytes(b""), "is damaged or cut off"),
    "shard lacks what the index promises": (
        lambda f: save_file({"x": torch.zeros(1)}, shard(f, 0)),
        "model.safetensors.index.json promises ",
    ),
    "broken index": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "is no safetensors index"),
    "an index of numbers": (
        lambda f: (f / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": 1}})),
        "is no safetensors index",
    ),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "a config that contradicts itself": (lambda f: change_config(f, num_hidden_layers=2), "`num_hidden_layers` (2) must be equal"),
    "heads that share unevenly": (
        lambda f: change_config(f, num_key_value_heads=3),
        "4 attention heads cannot share 3 key-value heads evenly",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "unknown architecture": (lambda f: change_config(f, model_type="gemma2"), "architecture 'gemma2' is not one of qwen2, qwen3, llama"),
    "another architecture's weights": (
        lambda f: change_config(f, model_type="qwen3"),
        "lacks model.layers.0.self_attn.k_norm.weight, model.layers.0.self_attn.q_norm.weight,",
    ),
    "another head": (
        lambda f: change_config(f, architectures=["Qwen2ForQuestionAnswering"]),
        "neither a language model nor a reward model",
    ),
    "sliding window": (
        lambda f: change_config(f, layer_types=["sliding_attention"] * 4, use_sliding_window=True),
        "layer type 'sliding_attention' is not supported",
    ),
    "rope scaling": (
        lambda f: change_config(f, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        "rope type 'yarn' is not supported",
    ),
    "missing tensor": (lambda f: change_tensors(f, lambda t: t.pop("model.norm.weight")), "lacks model.norm.weight"),
    "unknown tensor": (
        lambda f: change_tensors(f, lambda t: t.update({"model.layers.0.mlp.experts.weight": torch.zeros(2)})),
        "no row in the weight table for model.layers.0.mlp.experts.weight",
    ),
    "wrong shape": (
        lambda f: change_tensors(f, lambda t: t.update({"model.layers.2.mlp.down_proj.weight": torch.zeros(32, 63)})),
        "model.layers.2.mlp.down_proj.weight has shape [32, 63], its config asks for [32, 64]",
    ),
    "quantised": (
        lambda f: change_tensors(f, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)})),
        "model.norm.weight is stored as I8",
    ),
    "two number formats in one tensor": (
        lambda f: change_tensors(f, lambda t: t.update({"model.layers.1.self_attn.k_proj.bias": torch.zeros(16).bfloat16()})),
        "model.layers.1.self_attn.k_proj.bias torch.bfloat16; in Megatron they are one tensor",
    ),
    "tied, but two different": (
        lambda f: change_config(f, tie_word_embeddings=True),
        "lm_head.weight differs from model.embed_tokens.weight",
    ),
}


@pytest.mark.parametrize("case", BAD_HF)
def test_a_bad_hugging_face_folder(source, tmp_path, capsys, case):
    spoil, message = BAD_HF[case]
    spoil(source)
    refused(capsys, to_megatron(source, tmp_path / "out"), message, tmp_path / "out")


@pytest.mark.parametrize(
    ("tp", "pp", "message"),
    [(4, 1, "2 key-value heads cannot be split over parallel.tp=4"), (1, 3, "4 layers cannot be split"), (0, 1, "tp=0 must")],
)
def test_a_layout_that_does_not_fit(source, tmp_path, capsys, tp, pp, message):
    refused(capsys, to_megatron(source, tmp_path / "out", tp=tp, pp=pp), message, tmp_path / "out")


def distcp(folder: Path) -> Path:
    return sorted(folder.glob("release/*.distcp"))[1]


def change_number_format(folder: Path) -> None:
    """In what the checkpoint says of one tensor."""
    file = folder / "release" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    norm = metadata.state_dict_metadata["decoder.final_layernorm.weight"]
    norm.properties = dataclasses.replace(norm.properties, dtype=torch.float8_e4m3fn)
    file.write_bytes(pickle.dumps(metadata))


BAD_MEGATRON = {
    "missing file": (lambda f: distcp(f).unlink(), "lacks __1_0.distcp"),
    "truncated file": (lambda f: cut(distcp(f)), "__1_0.distcp is cut off: "),
    "damaged file": (lambda f: distcp(f).write_bytes(bytes(distcp(f).stat().st_size)), "__1_0.distcp is damaged at "),
    "float8": (change_number_format, "decoder.final_layernorm.weight is stored as torch.float8_e4m3fn; only BF16, F16, F32"),
    "no config": (lambda f: (f / "config.json").unlink(), "megatron holds no config.json; give --hf-config"),
    "no metadata": (lambda f: (f / "release" / ".metadata").unlink(), "is no Megatron distributed checkpoint (.metadata is missing)"),
    "damaged metadata": (lambda f: (f / "release" / ".metadata").write_bytes(b"\x80"), ".metadata cannot be read"),
    "no such iteration": (lambda f: (f / "latest_checkpointed_iteration.txt").write_text("12"), "iter_0000012 is no Megatron"),
    "other sizes": (
        lambda f: change_config(f, intermediate_size=48),
        "decoder.layers.mlp.linear_fc1.weight has shape [4, 128, 32], the config asks for [4, 96, 32]",
    ),
    "larger vocabulary": (
        lambda f: change_config(f, vocab_size=99),
        "embedding.word_embeddings.weight has shape [98, 32], the config asks for [99, 32]",
    ),
    "fewer layers": (
        lambda f: change_config(f, num_hidden_layers=2, layer_types=["full_attention"] * 2),
        "has shape [4, 32], the config asks for [2, 32]",
    ),
    "other architecture": (lambda f: change_config(f, model_type="qwen3"), "lacks decoder.layers.self_attention.q_layernorm.weight"),
    "tied in the config only": (lambda f: change_config(f, tie_word_embeddings=True), "no row in the weight table for output_layer.weight"),
}


@pytest.mark.parametrize("case", BAD_MEGATRON)
def test_a_bad_megatron_folder(source, tmp_path, capsys, case):
    assert to_megatron(source, tmp_path / "megatron", tp=2) == 0
    spoil, message = BAD_MEGATRON[case]
    spoil(tmp_path / "megatron")
    refused(capsys, to_hf(tmp_path / "megatron", tmp_path / "out"), message, tmp_path / "out")


def test_a_head_with_a_bias_is_no_token_rm(source, tmp_path, capsys):
    def make_reward_model(content):
        del content["lm_head.weight"]
        content |= {"score.weight": torch.ones(1, 32), "score.bias": torch.ones(1)}

    change_tensors(source, make_reward_model)
    change_config(source, architectures=["Qwen2ForTokenClassification"], id2label={"0": "score"})
    refused(capsys, to_megatron(source, tmp_path / "out"), "score.bias is not zero", tmp_path / "out")


def test_not_enough_disk(source, tmp_path, capsys, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(capsys, to_megatron(source, tmp_path / "out"), "0.0 GB free", tmp_path / "out")


def test_what_a_killed_conversion_left_does_not_count_as_used_disk(source, tmp_path, monkeypatch):
    left = tmp_path / ".out.partial" / "release" / "__0_0.distcp"
    left.parent.mkdir(parents=True)
    left.write_bytes(bytes(1000))
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 1000 if left.exists() else 10**9))
    assert to_megatron(source, tmp_path / "out") == 0


def test_a_size_that_is_none_is_told_how_to_write_one(tmp_path, capsys):
    assert to_hf(tmp_path, tmp_path / "out", "--max-shard-size", "big") == 2
    error = capsys.readouterr().err
    assert "--max-shard-size: 'big' is no size; write it like 5GB or 500MB" in error and error.count("\n") == 1


def test_what_exists_is_not_overwritten(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert to_megatron(source, out) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert to_megatron(source, out, tp=2) == 2
    assert "out exists; remove it, or take another --out" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
