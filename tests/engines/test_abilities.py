"""What is refused before engines are started is what SGLang itself refuses, with the flag that it was handed; tried on a CPU."""

import pytest
import torch

from megatron_oreal import evaluate
from megatron_oreal.engines.abilities import refuse_what_engines_lack
from megatron_oreal.engines.server import Server
from megatron_oreal.errors import ServerError
from tests.settings import rollout_config

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="engines on a GPU can")


@on_cpu
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kv_cache_dtype": "fp8_e4m3"}, "CPU FP8 KV cache requires"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "--kv-cache-dtype fp8_e5m2 is not supported on CPU"),
        ({"speculative": "ngram"}, "No module named 'sgl_kernel.speculative'"),
    ],
)
def test_an_engine_without_a_gpu_would_end_at_its_start(served_model, tmp_path, asked, said):
    """Where one of these begins to work, the refusal has to go."""
    config = rollout_config(ready_timeout_s=120, max_total_tokens=200, **asked)
    with pytest.raises(ValueError, match=f"rollout.{next(iter(asked))}={next(iter(asked.values()))}: .*without a GPU"):
        refuse_what_engines_lack(config)
    with Server(config, served_model, "float32", tmp_path) as server, pytest.raises(ServerError, match=said):
        server.wait_ready()


@on_cpu
def test_a_command_says_so_in_one_line_before_anything_is_started(served_model, tmp_path, capsys):
    asked = [f"model.path={served_model}", "eval.data=none.jsonl", f"run_dir={tmp_path}", "rollout.max_total_tokens=200"]
    assert evaluate.main([*asked, "rollout.max_new_tokens=64", "rollout.speculative=ngram"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: rollout.speculative=ngram: ") and error.count("\n") == 1


def test_an_sglang_without_speculation_is_named(tmp_path, monkeypatch):
    """A folder of that name stands for an older one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse_what_engines_lack(rollout_config(speculative="ngram"))
    (tmp_path / "sglang").mkdir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [str(tmp_path / name)]}))
    with pytest.raises(ValueError, match="the installed SGLang has no n-gram speculation; set rollout.speculative=none"):
        refuse_what_engines_lack(rollout_config(speculative="ngram"))
