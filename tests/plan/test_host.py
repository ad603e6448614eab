"""A machine without GPUs: the formula against real Megatron ranks, and what does not fit: refused by a run, seen by doctor and plan."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from megatron_oreal import evaluate
from megatron_oreal.doctor import command as doctor
from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model import gpt
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.shape import read_shape
from megatron_oreal.model.split import Split
from megatron_oreal.plan import command as plan
from megatron_oreal.plan.fake_ranks import Alive
from megatron_oreal.plan.host.memory import CpuFormula
from megatron_oreal.plan.host.need import Place, need_of_run
from megatron_oreal.plan.memory import Workload
from megatron_oreal.trajectory import Sample
from tests import runs
from tests.settings import compute_config, optimizer, parallel_config, tiny_run

MODEL = {
    "vocab_size": 3000,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
LENGTHS = (500, 500, 500, 500, 400)
PROMPT = 40


def peak_of_a_real_rank(kind: str, tied: bool, role: str, recompute: str, parallel: ParallelConfig) -> tuple[int, int]:
    """Most bytes of tensors that live, beside the model's, while a micro-batch goes through; and parameters."""
    ranks = Ranks(parallel, 0)
    hf = AutoConfig.for_model(kind, tie_word_embeddings=tied, **MODEL)
    compute = Compute.find(compute_config(recompute=recompute), "float32", ranks.platform)
    chunks = gpt.build(hf, "token_rm" if role == "token_rm" else "policy", parallel, compute)
    for parameter in chunks[0].parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    trained = role != "reference"
    model = Trainable(chunks, optimizer(), 5).model if trained else [c.requires_grad_(False).eval() for c in chunks]
    samples = [Sample("q", [1] * PROMPT, [2] * (n - PROMPT), reward=1, advantage=0.5, pass_rate=0.5, version=0) for n in LENGTHS]
    split = Split(sp=parallel.tp if parallel.sequence_parallel else 1)
    micro = batch.pack(samples, 0, split, "previous", torch.device("cpu"))
    reading = "scores" if role == "token_rm" else "logprobs"

    def run() -> None:
        pipeline.run(model, [micro], reading, lambda _, out: ((out if role == "token_rm" else out[0]).sum(), None), backward=trained)

    run()  # buffers that stay are there afterwards
    with Alive() as alive:
        _count_what_is_there(model, trained, alive)
        before = alive.bytes
        run()
    ranks.stop()
    return alive.peak - before, sum(p.numel() for p in chunks[0].parameters())


def _count_what_is_there(model: list, trained: bool, alive: Alive) -> None:
    """It notices a tensor when an operation returns it."""
    for chunk in model:
        tensors = [p.detach() for p in chunk.parameters()]
        for buffer in chunk.buffers if trained else ():
            tensors += [t for t in (buffer.grad_data, buffer.param_data) if t is not None]
        for tensor in tensors:
            tensor.view(-1)
    alive.peak = alive.bytes


@pytest.mark.parametrize(
    ("kind", "tied", "role", "recompute", "layout"),
    [
        ("qwen2", False, "policy", "none", {}),
        ("qwen2", True, "policy", "full", {}),
        ("qwen2", True, "policy", "mlp", {}),
        ("qwen3", False, "policy", "none", {"tp": 2}),
        ("qwen2", True, "policy", "none", {"tp": 2, "sequence_parallel": True}),
        ("qwen2", True, "token_rm", "full", {"tp": 2}),
        ("llama", False, "reference", "none", {}),
        ("qwen2", True, "reference", "none", {"tp": 2}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else str(value),
)
def test_the_formula_says_what_a_real_rank_holds(ranks, kind, tied, role, recompute, layout):
    parallel = parallel_config(**layout)
    hf = AutoConfig.for_model(kind, tie_word_embeddings=tied, **MODEL)
    formula = CpuFormula(hf, Workload(parallel, recompute, "float32", parallel.ranks, sum(LENGTHS), 1, "chunked")).stage(role, 0)
    for peak, parameters in ranks(parallel.ranks, peak_of_a_real_rank, kind, tied, role, recompute, parallel):
        assert formula.parameters == parameters
        assert formula.activations == pytest.approx(peak, rel=0.10)


def test_ranks_hold_less_of_a_split_model_and_each_its_own_libraries(tiny_model):
    shape = read_shape(tiny_model())
    whole = tiny_run(tiny_model())
    split = replace(whole, parallel=parallel_config(tp=2))
    one, two = (need_of_run(run, shape, Place(run.parallel.ranks, run.parallel.ranks), free=10**9) for run in (whole, split))
    assert two.ranks[0].state < 0.6 * one.ranks[0].state and two.ranks[0].process == one.ranks[0].process
    elsewhere = need_of_run(split, shape, Place(2, 1), free=10**9)  # one rank on each of two machines
    assert len(elsewhere.ranks) == 1


def test_what_rests_or_is_on_the_host_is_counted_where_it_is(tiny_model):
    """In float32: weights, gradients and moments of 4, 4 and 8 bytes, and on_host weights apart from those that the model computes with."""
    run = tiny_run(tiny_model())
    shape, optimizer = read_shape(run.model.path), replace(run.policy.optimizer, on_host=True)
    on_host = replace(run, policy=replace(run.policy, optimizer=optimizer))
    runs = [replace(one, compute=compute_config(offload=how)) for one in (run, on_host) for how in ("none", "gradients", "all")]
    needs = [need_of_run(one, shape, Place(1, 1), free=10**9).ranks[0] for one in runs]
    policy, token_rm = (next(m.parameters for m in needs[0].models if m.role == role) for role in ("policy", "token_rm"))
    expected = [(16, 16), (12, 12), (4, 0), (20, 16), (16, 12), (16, 0)]
    assert [need.state for need in needs] == [a * policy + b * token_rm for a, b in expected]
    assert all(need.training >= need.process + 16 * (policy + token_rm) for need in needs), "all are made at start"
    assert needs[2].working > needs[1].working > needs[0].working


@pytest.fixture
def too_large(served_model, task, tmp_path) -> list[str]:
    """Overrides of a run that wants a cache of 300 GiB."""
    cache = "rollout.server_args.max-total-tokens=1000000000"
    return ["experiment=demo", f"model.path={served_model}", f"data.train={task / 'train.jsonl'}", f"run_dir={tmp_path / 'run'}", cache]


def test_a_run_that_cannot_fit_is_refused_before_anything_starts(too_large, tmp_path):
    run = runs.start(*too_large)
    output = runs.finish(run)
    assert run.returncode == 2 and output.count("\n") == 1, output
    assert output.startswith("error: memory: this needs ") and "it would fit with rollout.server_args.max-total-tokens=" in output
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_cannot_fit_is_refused(served_model, tmp_path, capsys):
    overrides = [f"model.path={served_model}", "model.dtype=float32", "eval.data=questions.jsonl", f"run_dir={tmp_path / 'run'}"]
    overrides += ["rollout.max_total_tokens=256", "eval.max_new_tokens=128"]
    assert evaluate.main([*overrides, "memory_gib=0.1"]) == 2
    error = capsys.readouterr().err
    assert "and there are 0.1; nothing smaller was found that fits" in error and error.count("\n") == 1


def test_the_doctor_sees_it(too_large, capsys):
    assert doctor.main(too_large) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line[9:].startswith("memory")]
    assert line.startswith("error") and "it would fit with rollout.server_args.max-total-tokens=" in line


def planned(capsys, *arguments: str, status: int) -> dict:
    assert plan.main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_plan_says_what_would_fit_and_that_fits(capsys):
    small = ["experiment=small", "objective.token_rm=true", "policy.freeze_steps=1", "learn.tokens_per_micro_batch=8192"]
    found = planned(capsys, *small, "memory_gib=24", status=1)
    assert not found["fits"] and found["shape"] == "qwen2.5-0.5b"
    fitting = planned(capsys, *small, "memory_gib=24", *found["suggestion"].split(), status=0)
    assert fitting["fits"] and fitting["total"] < found["total"] and fitting["total"] <= fitting["memory"]["total"]
    (rank,), (engine,) = fitting["ranks"], fitting["engines"]
    learning = [model for role, model in rank["models"].items() if role != "reference"]
    assert rank["state"] == sum(model["weights"] + model["gradients"] + model["optimizer"] for model in learning)
    assert fitting["training"] == rank["process"] + rank["state"] + rank["working"] + engine["resting"] + fitting["workers"]
    assert fitting["sampling"] == rank["resting"] + rank["sent"] + engine["sampling"] + fitting["workers"]
    assert fitting["total"] == max(fitting["training"], fitting["sampling"])


def test_ranks_are_the_layouts_and_the_search_is_for_gpus(capsys, tiny_model):
    model = [f"model.path={tiny_model()}", "plan.gpu=cpu"]
    assert len(planned(capsys, "experiment=demo", *model, status=0)["ranks"]) == 2  # parallel.dp=2
    lengths = ["rollout.max_total_tokens=4096", "rollout.max_new_tokens=99"]
    assert len(planned(capsys, *model, *lengths, "parallel.tp=2", "plan.gpus=4", status=0)["ranks"]) == 4  # DP 2
    assert plan.main(["experiment=small", "--search"]) == 2
    assert "--search compares layouts of GPUs" in capsys.readouterr().err
