"""Hugging Face -> Megatron -> Hugging Face: the same bits for any family, layout and number format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from megatron_oreal.convert import command as convert

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FAMILIES = {
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "llama3": ("llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 131072}),
}


ROOT = Path(__file__).parents[2]


def to_megatron(hf, out, *more: str, tp: int = 1, pp: int = 1) -> int:
    return convert.main(["hf-to-megatron", "--hf", str(hf), "--out", str(out), "--tp", str(tp), "--pp", str(pp), *more])


def to_hf(megatron, out, *more: str) -> int:
    return convert.main(["megatron-to-hf", "--megatron", str(megatron), "--out", str(out), *more])


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """As the safetensors library reads them."""
    return {name: tensor for file in Path(folder).glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype
        assert torch.equal(tensor.view(torch.uint8), b[name].view(torch.uint8)), name


def change_config(folder: Path, **changes) -> None:
    """Of the keys given; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_tensors(folder: Path, change) -> None:
    """Write all tensors as one file after `change(dict of tensors)`."""
    content = tensors(folder)
    for file in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
        file.unlink(missing_ok=True)
    change(content)
    save_file(content, folder / "model.safetensors")


def stored_as(dtype: torch.dtype, model: str, folder: Path) -> Path:
    """The model in this number format, in files of at most 20 kB, with what else belongs to a checkpoint."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    loaded.save_pretrained(folder, max_shard_size="20KB")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSES").mkdir()
    return folder


@pytest.mark.parametrize("layout", [(1, 1), (2, 1), (1, 4), (2, 2)], ids=lambda layout: "tp{}-pp{}".format(*layout))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_gives_the_same_bits(tiny_model, tmp_path, capsys, family, dtype, layout):
    kind, changes = FAMILIES[family]
    source = stored_as(dtype, tiny_model(kind, **changes), tmp_path / "source")
    assert len(list(source.glob("*.safetensors"))) > 1
    assert to_megatron(source, tmp_path / "megatron", "--verify", tp=layout[0], pp=layout[1]) == 0
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify", "--max-shard-size", "30KB") == 0
    count = len(tensors(source))
    assert capsys.readouterr().out.count(f"{count} of {count} tensors are equal bit for bit") == 2
    assert_same_bits(tensors(source), tensors(tmp_path / "back"))
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors(source))
    assert all(f.stat().st_size < 35_000 for f in (tmp_path / "back").glob("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "back")


@pytest.mark.parametrize(("form", "has_bias"), [(AutoModelForTokenClassification, True), (AutoModelForSequenceClassification, False)])
def test_a_token_rm_goes_both_ways_in_the_form_that_it_came_in(tiny_model, tmp_path, form, has_bias):
    reward_model = form.from_pretrained(tiny_model(), num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        reward_model.score.weight.normal_()
    if has_bias:
        torch.nn.init.zeros_(reward_model.score.bias)
    reward_model.save_pretrained(tmp_path / "source")
    assert to_megatron(tmp_path / "source", tmp_path / "megatron", "--verify", tp=2, pp=2) == 0
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 0
    assert_same_bits(tensors(tmp_path / "source"), tensors(tmp_path / "back"))
    loaded, report = form.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(loaded(ids).logits, reward_model(ids).logits, rtol=0, atol=0)


def test_nothing_is_a_number_too(tiny_model, tmp_path):
    """NaN and -0 are bits like others: they survive, and compare equal to themselves."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, :4] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-40])
    model.save_pretrained(tmp_path / "source")
    assert to_megatron(tmp_path / "source", tmp_path / "megatron", "--verify", tp=2) == 0
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 0
    assert_same_bits(tensors(tmp_path / "source"), tensors(tmp_path / "back"))


@pytest.mark.parametrize("said", [["Qwen2Model"], None])
def test_the_config_of_a_bare_model_gets_the_head_and_number_format_that_are_written(tiny_model, tmp_path, said):
    assert to_megatron(tiny_model(), tmp_path / "megatron") == 0
    change_config(tmp_path / "megatron", architectures=said, dtype="bfloat16")
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 0
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "back").dtype == torch.float32
