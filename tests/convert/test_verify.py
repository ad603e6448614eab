"""--verify finds whatever differs between the two sides."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForTokenClassification

from tests.convert.test_round_trip import change_config, change_tensors, stored_as, tensors, to_hf, to_megatron


def test_verify_names_the_tensor_that_differs(tiny_model, tmp_path, capsys):
    source, megatron, back = stored_as(torch.bfloat16, tiny_model(), tmp_path / "source"), tmp_path / "megatron", tmp_path / "back"
    assert to_megatron(source, megatron, tp=2, pp=2) == 0
    assert to_hf(megatron, back) == 0
    content = tensors(back)
    content["model.layers.3.self_attn.k_proj.bias"].view(torch.int16)[3] ^= 1  # the last bit of one number
    save_file(content, back / "model.safetensors")
    capsys.readouterr()
    for direction, given, out in ((to_hf, megatron, back), (to_megatron, back, megatron)):
        assert direction(given, out, "--verify") == 1
        said = capsys.readouterr().out
        assert said.count("differs:") == 1
        assert "differs: model.layers.3.self_attn.k_proj.bias\n" in said
        assert "50 of 51 tensors are equal bit for bit" in said


def test_verify_of_another_model_names_what_it_lacks(tiny_model, tmp_path, capsys):
    assert to_megatron(tiny_model(intermediate_size=48), tmp_path / "megatron") == 0
    assert to_megatron(tiny_model(), tmp_path / "megatron", "--verify") == 1
    said = capsys.readouterr().out
    assert "differs: model.layers.2.mlp.up_proj.weight\n" in said
    assert said.count("differs: model.layers.0.mlp.") == 3


@pytest.mark.parametrize("change", [lambda t: t.update({"score.bias": torch.tensor([3.0])}), lambda t: t.pop("score.bias")])
def test_a_token_rm_has_a_bias_of_zero(tiny_model, tmp_path, capsys, change):
    reward_model = AutoModelForTokenClassification.from_pretrained(tiny_model(), num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(reward_model.score.bias)
    reward_model.save_pretrained(tmp_path / "source")
    assert to_megatron(tmp_path / "source", tmp_path / "megatron") == 0
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 0
    change_tensors(tmp_path / "back", change)
    capsys.readouterr()
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 1
    assert "differs: score.bias\n51 of 52 tensors" in capsys.readouterr().out


def tied_and_untied(model: str, folder: Path) -> tuple[Path, Path]:
    """The same weights, but that one folder's LM head is its embedding."""
    tied, untied = (stored_as(torch.float32, model, folder / name) for name in ("tied", "untied"))
    change_config(tied, tie_word_embeddings=True)
    change_tensors(tied, lambda t: t.pop("lm_head.weight"))
    return tied, untied


@pytest.mark.parametrize(("head", "status"), [(torch.zeros_like, 1), (torch.clone, 0)], ids=["zeros", "copy"])
def test_a_tied_head_may_be_a_copy_of_the_embedding_alone(tiny_model, tmp_path, capsys, head, status):
    tied, _ = tied_and_untied(tiny_model(), tmp_path)
    assert to_megatron(tied, tmp_path / "megatron") == 0
    assert to_hf(tmp_path / "megatron", tmp_path / "back") == 0
    change_tensors(tmp_path / "back", lambda t: t.update({"lm_head.weight": head(t["model.embed_tokens.weight"])}))
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == status
    assert capsys.readouterr().out.count("differs: lm_head.weight\n") == status


def test_what_only_the_megatron_side_holds_differs(tiny_model, tmp_path, capsys):
    tied, untied = tied_and_untied(tiny_model(), tmp_path)
    assert to_megatron(untied, tmp_path / "megatron") == 0
    assert to_megatron(tied, tmp_path / "megatron", "--verify") == 1
    assert "differs: output_layer.weight\n50 of 50 tensors" in capsys.readouterr().out


def test_buffers_that_old_transformers_saved_do_not_differ(tiny_model, tmp_path, capsys):
    source, buffer = stored_as(torch.float32, tiny_model(), tmp_path / "source"), "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(source, lambda t: t.update({buffer: torch.zeros(4)}))
    assert to_megatron(source, tmp_path / "megatron", "--verify") == 0
    said = capsys.readouterr().out
    assert f"left out: {buffer}\n" in said
    assert "differs" not in said
