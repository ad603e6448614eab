"""debug=bench: real ranks beside their plan, what a GPU's report says, and what is refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig

from launch.slurm import facts
from megatron_oreal import train
from megatron_oreal.bench.beside import predict
from megatron_oreal.bench.measure import GATHER, STAGES, Measured, RankMemory
from megatron_oreal.bench.report import Bench, as_json, as_text
from megatron_oreal.bench.stand_in import trajectories
from megatron_oreal.devices import GIB
from megatron_oreal.doctor import command as doctor
from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.packing import Cost
from megatron_oreal.model.shape import head_dim
from megatron_oreal.plan import command as plan
from megatron_oreal.plan.compose import compose, compose_bench
from megatron_oreal.plan.shapes import architecture_of
from tests import runs

LARGE = {"vocab_size": 90000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
"""1.5 GiB of weights, gradients and optimizer states, and little to compute. Of a smaller model one would see the process itself alone."""
SHORT = ["rollout.max_total_tokens=64", "rollout.max_new_tokens=56", "plan.lengths.prompt=8", "plan.lengths.median=40"]
FEW = ["experiment=demo", "debug=bench", "data.questions_per_step=3", "rollout.samples=2", "learn.tokens_per_micro_batch=128"]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    """A folder with config.json alone."""
    folder = tmp_path_factory.mktemp("sizes")
    AutoConfig.for_model("qwen2", num_key_value_heads=2, tie_word_embeddings=False, **LARGE).save_pretrained(folder)
    return folder


def test_two_ranks_hold_what_was_planned_and_every_stage_is_timed(sizes, tmp_path):
    asked = [*FEW, *SHORT, f"model.path={sizes}", f"run_dir={tmp_path}", "parallel.dp=1", "parallel.tp=2", "bench_steps=1"]
    run = runs.start(*asked)
    output = runs.finish(run)
    assert run.returncode == 0, output
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["layout"] == {"tp": 2, "pp": 1, "vpp": None, "cp": 1, "dp": 1} and found["device"] == "CPU"
    assert [rank["rank"] for rank in found["memory"]] == [0, 1] == list(range(len(found["matmul"]["ranks"])))
    for rank in found["memory"]:
        assert rank["held"] > GIB  # more than half of it is what the model's size decides
        assert rank["held_over_planned"] == pytest.approx(1, rel=0.10)
    config = compose_bench(asked)
    hf = AutoConfig.from_pretrained(sizes)
    samples = trajectories(config, hf.vocab_size)
    assert (found["trajectories"], found["tokens"]) == (len(samples), sum(s.length for s in samples))
    stages = found["stages"]
    total = StepCost.of(hf, Cost.of(hf, head_dim(hf)), token_rm=True, reference=True).flops(samples, policy=True)
    assert stages["step"]["flops"] == pytest.approx(total)
    assert all(stages[name]["seconds"] > 0 and stages[name]["planned_seconds"] is None for name in STAGES)
    parts = sum(stages[name]["seconds"] for name in ("token_rm", "reference", "policy", "optimizer"))
    assert 0.5 * stages["step"]["seconds"] < parts <= stages["step"]["seconds"]
    share = total / stages["step"]["seconds"] / 2 / found["matmul"]["flops_per_second"]
    assert stages["step"]["of_matmul"] == pytest.approx(share)
    assert re.search(r"^stage 0, rank \d +\d\.\d\d ", output, re.MULTILINE), output


def test_beside_a_gpus_steps_stands_what_the_plan_command_says(capsys):
    overrides = ["experiment=oreal_32b", "plan.gpus_per_host=8", "plan.tables=null"]
    assert plan.main([*overrides, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    config = compose([*overrides, "debug=bench"])
    model = architecture_of("", config.plan.shape)
    prediction = predict(config, model)
    parts = {name: said["step"][name]["seconds"] for name in ("token_RM", "reference", "policy")}
    assert prediction.seconds["step"] == pytest.approx(sum(parts.values()))
    named = sum(prediction.seconds[name] for name in STAGES if name not in ("step", GATHER))
    assert named == pytest.approx(prediction.seconds["step"]) and prediction.seconds["reference"] == pytest.approx(parts["reference"])
    assert prediction.seconds[GATHER] < said["step"]["sync"]["seconds"]
    for stage, held, tensors in zip(said["stages"], prediction.held, prediction.tensors, strict=True):
        assert tensors == pytest.approx(stage["state"] + stage["activations"])
        assert held == pytest.approx(tensors + stage["allowance"])
    seconds = {name: 2 * prediction.seconds[name] for name in STAGES}
    memory = [RankMemory(rank // 32, round(0.5 * prediction.held[rank // 32]), 1 << 30) for rank in range(128)]
    measured = Measured(seconds, {"policy": 1e18, "step": 2e18}, [6e14] * 127 + [3e14], memory, 90, 500_000, "anything")
    found = as_json(bench := Bench(config, model, "NVIDIA H100 80GB HBM3", measured, prediction))
    assert all(stage["measured_over_planned"] == 2 for stage in found["stages"].values())
    assert found["stages"]["policy"]["planned_flops_per_second_per_gpu"] == pytest.approx(1e18 / prediction.seconds["policy"] / 128)
    assert [rank["stage"] for rank in found["memory"]] == [n // 32 for n in range(128)]
    assert all(math.isclose(rank["held_over_planned"], 0.5, rel_tol=1e-6) for rank in found["memory"])
    assert "the slowest 300 (rank 127)" in as_text(bench) and "does not know this GPU" not in as_text(bench)
    assert "so this is its plan for plan.gpu=h100-80g" in as_text(replace(bench, device="NVIDIA L40S"))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (["bench_steps=0"], "config: bench_steps=0 must be at least 1"),
        (["bench_steps=null"], "config: bench_steps=None goes with debug=bench"),
        (["plan.lengths.prompt=256"], "plan.lengths.prompt=256 must be below rollout.max_total_tokens=256: no response would fit"),
        (["model.path="], "plan: model.path=null is no folder here, and plan.shape is not set; shapes: "),
        (["plan.shape=qwen2.5-7b", "model.path=", "memory_gib=2", "plan.lengths.prompt=9"], "memory: this needs "),
        (["parallel.tp=3"], "model: 4 attention heads cannot be split over parallel.tp=3"),
    ],
)
def test_what_cannot_be_benched_is_told_before_any_rank_starts(sizes, tmp_path, capsys, wrong, line):
    assert train.main(["experiment=demo", "debug=bench", f"model.path={sizes}", f"run_dir={tmp_path / 'run'}", *wrong]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}"), error
    assert not (tmp_path / "run").exists()


def test_a_run_that_trains_has_no_bench_steps(capsys, tmp_path):
    given = ["experiment=demo", "model.path=unused", "data.train=unused", f"run_dir={tmp_path}"]
    assert train.main([*given, "bench_steps=3"]) == 2
    assert capsys.readouterr().err == "error: config: bench_steps=3 goes with debug=bench\n"


def test_the_preflight_check_asks_for_nothing_that_a_bench_does_without(sizes, tmp_path, capsys):
    overrides = ["experiment=demo", "debug=bench", f"model.path={sizes}", f"run_dir={tmp_path / 'run'}", "plan.lengths.prompt=8"]
    assert doctor.main([*overrides, "--ranks=2", "--ranks-per-node=2"]) == 0
    lines = capsys.readouterr().out
    assert "layout" in lines and "compute" in lines and "questions" not in lines and "tokenizer" not in lines
    assert facts.main("train", *overrides) == 0
    assert capsys.readouterr().out == f"RUN_DIR={tmp_path / 'run'} PLACEMENT=none\n"
