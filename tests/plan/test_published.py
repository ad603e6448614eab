"""Published figures beside planned ones: what is published is met, and every row is answered for."""

import json

import pytest

from megatron_oreal.plan import command as plan
from megatron_oreal.plan.memory import whole
from megatron_oreal.plan.operations.silicon import measured
from megatron_oreal.plan.published.compared import Compared, spread
from megatron_oreal.plan.published.models import Cannot, device_of, model_of

# vLLM's blog, on one H100; NeMo-RL v0.5's performance page: no constant was fitted to whole steps.
DECODE = {
    "id": "decode",
    "kind": "decode_step",
    "engine": "vLLM v0.19.1",
    "model": "Llama-3.1-8B",
    "params_b": 8.03,
    "gpu": "H100",
    "tp": 1,
}
DECODE |= {"precision": {"weights": None, "kv": "bf16"}, "batch_or_concurrency": 8, "input_tokens": 20000, "output_tokens": 2000}
DECODE |= {"figures": {"itl_ms_median": 12.93}}
STEP = {"id": "step", "framework": "NeMo RL v0.5", "kind": "rl_step", "model": "Qwen3-32B", "gpu": "H100", "n_gpus": 32}
STEP |= {"placement": {"mode": "colocated"}, "train_layout": {"tp": 4, "pp": 4, "cp": 1, "backend": "megatron"}, "precision": "bf16"}
STEP |= {"gen_layout": {"engine": "vllm", "tp": 4}, "samples_per_prompt": 32, "trajectories_per_step": 2048, "max_tokens": 4096}
STEP |= {"mean_response_tokens": 3251, "train_global_batch": 512, "figures": {"step_s": 376}}


def compared(capsys, tmp_path, *rows: dict) -> dict:
    file = tmp_path / "published.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plan.main(["--published", str(file), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.skipif(not measured("h100-80g", "vllm"), reason="needs aiconfigurator-core")
def test_published_figures_are_met(capsys, tmp_path):
    found = compared(capsys, tmp_path, DECODE, STEP)
    assert [(row["id"], row["part"]) for row in found["rows"]] == [("decode", "decode"), ("step", "step")] and not found["cannot"]
    for row, close in zip(found["rows"], (0.15, 0.2), strict=True):
        assert row["predicted"] == pytest.approx(row["published"], rel=close), row


def test_no_row_is_dropped(capsys, tmp_path):
    rows = [
        DECODE | {"id": "mixture", "model": "Qwen3-30B-A3B"},
        DECODE | {"id": "lengths", "input_tokens": "ShareGPT"},
        DECODE | {"id": "figures", "figures": {"watts": 700}},
        DECODE | {"id": "field", "model": None},
        STEP | {"id": "layout", "train_layout": {"tp": None, "backend": None}},
    ]
    found = compared(capsys, tmp_path, *rows)
    assert not found["rows"]
    assert [(one["id"].split(",")[0], one["reason"]) for one in found["cannot"]] == [
        ("mixture", "Qwen3-30B-A3B is no dense decoder alone"),
        ("lengths", "input_tokens is 'ShareGPT', no number"),
        ("figures", "none of its figures is one that a plan has: watts"),
        ("field", "a field is missing or of another kind (AttributeError: 'NoneType' object has no attribute 'lower')"),
        ("layout", "the training layout is not given"),
    ]


def test_what_is_no_file_of_figures_is_said(capsys, tmp_path):
    assert plan.main(["--published", str(tmp_path / "none.jsonl")]) == 2
    (tmp_path / "wrong.jsonl").write_text('{"id": 1}\n')
    assert plan.main(["--published", str(tmp_path / "wrong.jsonl")]) == 2
    missing, wrong = capsys.readouterr().err.splitlines()
    assert "none.jsonl is no file here" in missing and "wrong.jsonl line 1: no published figures (KeyError: 'kind')" in wrong


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("Llama-3.3-70b-instruct", 70.6),
        ("LLaMA-Instruct 3.1 8B", 8.03),
        ("LLaMA 70B", 69.0),
        ("llama2-7b", 6.74),
        ("Qwen2.5-72B-Instruct", 72.7),
        ("qwen2.5 32b", 32.8),
        ("Qwen3-1.7B", 1.72),
        ("Mistral-7B-Instruct-v0.3", 7.25),
        ("GPT 16B (dense)", 16),
    ],
)
def test_models_are_known_by_their_names(name, billions):
    assert whole(model_of(name, billions)) / 1e9 == pytest.approx(billions, rel=0.1 if "GPT" in name else 0.01)


def test_devices_are_known_by_their_names():
    names = ("H100 80GB (DGX)", "H100 PCIe 80GB", "H200 SXM 141GB", "H20 96GB", "A100 40GB", "GB200", None)
    known = ["h100-80g", "h100-pcie", "h200", "h20", "a100-40g", "gb200", "h100-80g"]
    assert [device_of(name, "NeMo RL") for name in names] == known
    with pytest.raises(Cannot, match="MI300X is not in megatron_oreal/devices.py"):
        device_of("MI300X", "")


def test_a_spread_is_in_factors():
    rows = [Compared("r", "step", predicted, 100.0) for predicted in (100, 110, 90, 125, 200)]
    found = spread(rows)
    assert (found.count, found.within_half) == (5, 0.8)
    assert found.median == pytest.approx(1 / 0.9) and found.ninetieth == pytest.approx(2.0)
    assert found.range == pytest.approx((0.5, 1 / 0.9))
    many = spread([Compared("r", "step", 100.0, published) for published in range(101, 121)])
    assert many.range == pytest.approx((1.02, 1.19))  # eighteen of twenty
