"""Real Megatron ranks load what was converted, and what they save can be converted; both compute what transformers computes."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core import dist_checkpointing
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.packing import partition
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, Models
from megatron_oreal.model import hf_weights
from megatron_oreal.model.config import ComputeConfig, ModelConfig
from megatron_oreal.run_state import RunState
from tests.convert.test_round_trip import FAMILIES, LLAMA3, assert_same_bits, change_config, tensors, to_hf, to_megatron
from tests.learn.test_checkpoint import make_batch
from tests.model.test_hf_weights import SAMPLES, expected_logprobs
from tests.settings import compute_config, parallel_config, tiny_run


def micro_batches(ranks: Ranks, models: Models, parallel: ParallelConfig):
    micro = batch.of_rank(SAMPLES, ranks, parallel, 64, models.cost, 1, score_position="previous")
    order = [s for indices in partition([s.length for s in SAMPLES], 1, 64, models.cost)[0] for s in indices]
    return micro, order


def load_converted(model: str, megatron: str, parallel: dict, compute: ComputeConfig):
    """Whether a policy loaded by Megatron itself has the weights that we load directly, and its log-probabilities (last stage)."""
    settings = parallel_config(**parallel)
    ranks = Ranks(settings, seed=0)
    models = Models(ModelConfig(model, "float32"), settings, compute, ranks)
    (direct,), (policy,) = models.build("policy"), models.build("policy")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(7.0)
    loaded = dist_checkpointing.load({"model": policy.sharded_state_dict(metadata={})}, megatron)
    policy.load_state_dict(loaded["model"])
    differ = [n for (n, a), b in zip(direct.named_parameters(), policy.parameters(), strict=True) if not torch.equal(a, b)]
    micro, order = micro_batches(ranks, models, settings)
    values = pipeline.run([policy], micro, "logprobs", lambda _, out: (None, out[0]), backward=False)
    ranks.stop()
    return differ, order, [v.cpu().numpy() for v in values]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("converted_for", "loaded_in"), [((2, 2), {"tp": 2, "pp": 2}), ((1, 4), {"tp": 2}), ((2, 1), {"pp": 2})], ids=["tp2-pp2", "pp4", "tp2"]
)
def test_megatron_loads_converted_files_in_any_layout(ranks, tiny_model, tmp_path, family, converted_for, loaded_in):
    kind, changes = FAMILIES[family]
    model, (tp, pp) = tiny_model(kind, **changes), converted_for
    assert to_megatron(model, tmp_path / "megatron", tp=tp, pp=pp) == 0
    world = loaded_in.get("tp", 1) * loaded_in.get("pp", 1)
    results = ranks(world, load_converted, model, str(tmp_path / "megatron" / "release"), loaded_in, compute_config())
    assert not any(differ for differ, _, _ in results)
    _, order, values = results[-1]
    expected = torch.cat([expected_logprobs(model, SAMPLES[i]) for i in order])
    torch.testing.assert_close(torch.from_numpy(values[0]), expected, rtol=1e-4, atol=1e-4)


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
ON_THE_HUB = {  # config.json of Qwen2.5 and DeepSeek-R1-Distill as downloaded, but for the sizes
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 4096,
        "max_window_layers": 4,
        "model_type": "qwen2",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.44.0",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        "rope_theta": LLAMA3["rope_theta"],
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.43.0.dev0",
        "use_cache": True,
    },
}


@pytest.mark.parametrize("kind", ON_THE_HUB)
def test_a_config_in_the_form_that_the_hub_has_goes_both_ways(ranks, tiny_model, tmp_path, kind):
    rope = {"qwen2": {"rope_type": "default", "rope_theta": 1e6}, "llama": LLAMA3}[kind]
    new, old = tiny_model(kind, rope_parameters=rope, max_position_embeddings=131072), tmp_path / "old"
    shutil.copytree(new, old)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**ON_THE_HUB[kind], **{name: config[name] for name in SIZES}}))
    assert to_megatron(old, tmp_path / "megatron", "--verify", tp=2) == 0
    results = ranks(2, load_converted, str(old), str(tmp_path / "megatron" / "release"), {"tp": 2}, compute_config())
    _, order, values = results[-1]
    expected = torch.cat([expected_logprobs(new, SAMPLES[i]) for i in order])
    torch.testing.assert_close(torch.from_numpy(values[0]), expected, rtol=1e-4, atol=1e-4)
    assert to_hf(tmp_path / "megatron", tmp_path / "back", "--verify") == 0
    assert (tmp_path / "back" / "config.json").read_bytes() == (old / "config.json").read_bytes()

    change_config(tmp_path / "megatron", torch_dtype="bfloat16")
    assert to_hf(tmp_path / "megatron", tmp_path / "again") == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again").dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_transformer_engine_loads_converted_files(ranks, tiny_model, tmp_path, kind):
    """Its layers ask for more entries than the local ones: the extra states of its norms. It has never been run yet."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    model = tiny_model(kind, **sizes)
    assert to_megatron(model, tmp_path / "megatron") == 0
    [(differ, order, values)] = ranks(
        1, load_converted, model, str(tmp_path / "megatron" / "release"), {}, compute_config(attention="unfused")
    )
    assert not differ
    expected = torch.cat([expected_logprobs(model, SAMPLES[i]) for i in order])
    torch.testing.assert_close(torch.from_numpy(values[0]), expected, rtol=0.02, atol=0.02)  # TF32


def train_and_save(run, run_dir: str, numbered: str):
    """Two steps and a checkpoint; the same policy with numbered layers; exported policy weights, and the token RM's scores."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    for step in (1, 2):
        learner.train(make_batch(step), step)
    checkpoints = Checkpoints(run_dir, run.checkpoint, learner, ranks, RunState)
    checkpoints.save(RunState(2, 2))
    checkpoints.finish()
    policy = learner.policy.gpt
    if ranks.conducts:
        Path(numbered).mkdir()
    ranks.barrier()
    by_layer = {"non_homogeneous_layers": True}
    dist_checkpointing.save({f"model{i}": chunk.sharded_state_dict(metadata=by_layer) for i, chunk in enumerate(policy)}, numbered)
    weights = {n: t.clone().numpy() for n, t in hf_weights.export(policy, learner.models.dims)}
    micro, order = micro_batches(ranks, learner.models, run.parallel)
    scores = pipeline.run(learner.token_rm.gpt, micro, "scores", lambda _, out: (None, out), backward=False)
    ranks.stop()
    return weights, order, [s.numpy() for s in scores]


@pytest.mark.parametrize(("world", "parallel"), [(4, {"tp": 2, "pp": 2}), (2, {"pp": 2, "vpp": 2})], ids=["tp2-pp2", "vpp2"])
def test_what_training_saved_becomes_hugging_face_folders(ranks, tiny_model, tmp_path, capsys, world, parallel):
    model = tiny_model()
    run = dataclasses.replace(tiny_run(model, parallel), run_dir=str(tmp_path))
    results = ranks(world, train_and_save, run, str(tmp_path), str(tmp_path / "numbered"))
    trained = {name: torch.from_numpy(array) for weights, _, _ in results for name, array in weights.items()}
    step = tmp_path / "checkpoints" / "step-00002"
    for source in (step / "policy", tmp_path / "numbered"):
        out = tmp_path / f"hf-{source.name}"
        assert to_hf(source, out, "--hf-config", model, "--verify") == 0
        assert_same_bits(tensors(out), trained)
        AutoModelForCausalLM.from_pretrained(out)
    assert "entries (optimizer, random generators)" in capsys.readouterr().out

    assert to_hf(step / "token_rm", tmp_path / "hf-rm", "--hf-config", model, "--verify") == 0
    reward_model, report = AutoModelForTokenClassification.from_pretrained(tmp_path / "hf-rm", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    _, order, scores = results[-1]
    for index in order:
        sample = SAMPLES[index]
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        with torch.no_grad():
            expected = reward_model(ids).logits[0, len(sample.prompt_ids) - 1 : -1, 0]
        mine, scores[0] = np.split(scores[0], [len(sample.response_ids)])
        assert expected.abs().min() > 0
        torch.testing.assert_close(torch.from_numpy(mine), expected, rtol=1e-4, atol=1e-5)

    assert to_megatron(tmp_path / "hf-rm", tmp_path / "again", tp=2) == 0  # and back to Megatron
    assert to_hf(tmp_path / "again", tmp_path / "hf-rm", "--verify") == 0


def test_a_run_folder_is_refused_with_the_names_of_what_it_holds(tmp_path, capsys):
    for name in ("policy", "token_rm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".metadata").touch()
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert to_hf(tmp_path, tmp_path / "out") == 2
    assert "it holds policy and token_rm: name one of them" in capsys.readouterr().err


def mbridge_differences(model: str, parallel: dict) -> list[str]:
    """Where mbridge, which is not ours, loads other weights into the same model, or exports others from it."""
    from mbridge.models.llama import LLaMABridge
    from mbridge.models.qwen2 import Qwen2Bridge
    from mbridge.models.qwen3 import Qwen3Bridge

    settings = parallel_config(**parallel)
    ranks = Ranks(settings, seed=0)
    models = Models(ModelConfig(model, "float32"), settings, compute_config(), ranks)
    kind = {"qwen2": Qwen2Bridge, "qwen3": Qwen3Bridge, "llama": LLaMABridge}[models.hf.model_type]

    class LocalBridge(kind):
        """mbridge knows Transformer Engine's names; the local layers keep their norms apart."""

        def _weight_name_mapping_mcore_to_hf(self, name: str) -> list[str]:
            for ours, theirs in (("input_layernorm", "input_layernorm"), ("pre_mlp_layernorm", "post_attention_layernorm")):
                if name.endswith(f"{ours}.weight"):
                    return [f"model.layers.{name.split('.')[2]}.{theirs}.weight"]
            return super()._weight_name_mapping_mcore_to_hf(name)

    bridge = LocalBridge(models.hf, dtype=torch.float32)
    bridge.mpu.vpp_size = None
    (direct,), (theirs,) = models.build("policy"), models.build("policy")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.fill_(7.0)
        bridge.load_weights([theirs], model)
    differ = [n for (n, a), b in zip(direct.named_parameters(), theirs.parameters(), strict=True) if not torch.equal(a, b)]
    exported = {name: tensor.clone() for name, tensor in bridge.export_weights([direct])}
    differ += [n for n in models.source if n in exported and not torch.equal(exported[n], models.source[n][:])]
    differ += sorted(set(models.source) - set(exported))
    ranks.stop()
    return differ


@pytest.mark.parametrize("family", FAMILIES)
def test_an_independent_converter_agrees_with_the_table(ranks, tiny_model, family):
    pytest.importorskip("mbridge", reason="mbridge is not installed")
    kind, changes = FAMILIES[family]
    assert ranks(4, mbridge_differences, tiny_model(kind, vocab_size=96, **changes), {"tp": 2, "pp": 2}) == [[]] * 4
