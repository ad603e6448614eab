"""The weight table: what transformers computes from a folder, Megatron computes; and exported weights are the folder's bits."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.packing import partition
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model import hf_weights
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.model.gpt import check_architecture
from megatron_oreal.model.hf_files import HFFolder, check_folder, read_config
from megatron_oreal.model.hf_writer import read_size
from megatron_oreal.trajectory import Sample
from tests.settings import compute_config, parallel_config, write_hf

SAMPLES = [Sample("a", [5, 6, 7], [8, 9, 10, 11], 1, 0.0, 0.5, 0), Sample("b", [1], [2, 3], 1, 0.0, 0.5, 0)]
LAYOUTS = {"tp1": (1, {}), "tp2-sp": (2, {"tp": 2, "sequence_parallel": True}), "pp2": (2, {"pp": 2}), "tp2-pp2": (4, {"tp": 2, "pp": 2})}


def logprobs_and_export(model: str, parallel: dict, out: str):
    """Response log-probabilities (last stage, else None); the policy is also written back as a Hugging Face folder."""
    settings = parallel_config(**parallel)
    ranks = Ranks(settings, seed=0)
    models = Models(ModelConfig(model, "float32"), settings, compute_config(), ranks)
    policy = models.build("policy")
    micro = batch.of_rank(SAMPLES, ranks, settings, 64, models.cost, 1, score_position="previous")
    values = pipeline.run(policy, micro, "logprobs", lambda _, out: (None, out[0]), backward=False)
    write_hf(policy, models, out, ranks, timeout_s=600)
    ranks.stop()
    order = [s for indices in partition([s.length for s in SAMPLES], 1, 64, models.cost)[0] for s in indices]
    return order, [v.numpy() for v in values]


def expected_logprobs(model: str, sample: Sample) -> torch.Tensor:
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([sample.prompt_ids + sample.response_ids])
    with torch.no_grad():
        logits = reference(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(sample.response_ids)[:, None])[:, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "tied"), [("qwen2", False), ("qwen2", True), ("qwen3", False), ("llama", False)])
def test_megatron_computes_what_transformers_does_and_exports_the_same_bits(ranks, tiny_model, tmp_path, kind, tied, layout):
    world, parallel = LAYOUTS[layout]
    model = tiny_model(kind, tie_word_embeddings=tied)
    order, values = ranks(world, logprobs_and_export, model, parallel, str(tmp_path))[-1]
    expected = torch.cat([expected_logprobs(model, SAMPLES[i]) for i in order])
    torch.testing.assert_close(torch.from_numpy(values[0]), expected, rtol=1e-4, atol=1e-4)
    before, after = HFFolder(model), HFFolder(tmp_path / "hf")
    assert set(before) == set(after)
    assert all(torch.equal(before[name][:], after[name][:]) for name in before)
    AutoModelForCausalLM.from_pretrained(tmp_path / "hf")


def test_a_folder_that_is_no_model_is_refused(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="config.json is missing"):
        check_folder(tmp_path)
    with pytest.raises(KeyError, match="no tensor named lm_head.bias"):
        HFFolder(tiny_model())["lm_head.bias"]


def test_a_layout_that_does_not_divide_the_model_is_refused(tiny_model):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_model())
    with pytest.raises(ValueError, match="2 key-value heads cannot be split over parallel.tp=4"):
        check_architecture(config, parallel_config(tp=4))
    with pytest.raises(ValueError, match="4 layers cannot be split over parallel.pp=3"):
        check_architecture(config, parallel_config(pp=3))


def test_a_parameter_that_the_table_does_not_know_is_named(tiny_model, monkeypatch):
    from megatron_oreal.model import blueprint

    monkeypatch.delitem(hf_weights.LAYER_TABLE, "mlp.linear_fc2.weight")
    with pytest.raises(ValueError, match=r"no row for the Megatron parameter 'decoder.layers.0.mlp.linear_fc2.weight'"):
        blueprint.hf_shapes(read_config(tiny_model()), "policy")


def test_the_table_asks_for_what_transformers_has(tiny_model):
    """Names and shapes of every family, against transformers' own model."""
    from megatron_oreal.model import blueprint

    for kind, tied in (("qwen2", False), ("qwen2", True), ("qwen3", True), ("llama", False)):
        folder = tiny_model(kind, tie_word_embeddings=tied)
        stored = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        if tied:
            del stored["lm_head.weight"]
        assert blueprint.hf_shapes(read_config(folder), "policy") == {n: tuple(t.shape) for n, t in stored.items()}


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5 GiB", 3 * 2**29), ("30kb", 30_000), ("7", 7)])
def test_sizes_are_read_as_transformers_writes_them(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0MB", "-5GB", "5 parsecs"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is no size; write it like 5GB"):
        read_size(text)
