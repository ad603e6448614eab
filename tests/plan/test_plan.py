"""The planner as it is called: shipped experiments fit, what does not fit says why and what would, wrong input is one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_oreal import train
from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.plan import command as plan
from megatron_oreal.plan import engine, timing
from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.engine import EngineMemory
from megatron_oreal.plan.operations.prices import EAGER_LAYER_S
from megatron_oreal.plan.operations.sampling import sampling_seconds
from megatron_oreal.plan.operations.silicon import measured
from megatron_oreal.plan.shapes import architecture_of

ROOT = Path(__file__).parents[2]
SHIPPED = {"oreal_7b": 32, "oreal_7b_no_rm": 32, "oreal_7b_r1": 32, "oreal_32b": 128}


def planned(capsys, *arguments: str, status: int = 0) -> dict:
    assert plan.main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("gpu", ["a100-80g", "h100-80g"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_fits_80_gb(capsys, name, gpu):
    found = planned(capsys, f"experiment={name}", f"plan.gpu={gpu}")
    assert found["fits"] and not found["reasons"] and not found["notes"]  # no GPU idle, no sample that has to wait
    assert found["gpus"] == SHIPPED[name]
    roles = {"policy", "reference"} | ({"token_rm"} if name != "oreal_7b_no_rm" else set())
    assert all(set(stage["models"]) == roles for stage in found["stages"])


@pytest.mark.parametrize(("name", "gpus"), [("oreal_7b_1node", 8), ("oreal_32b_64gpu", 64)])
def test_models_that_rest_between_their_turns_leave_the_engines_room(capsys, name, gpus):
    found = planned(capsys, f"experiment={name}")
    assert found["fits"] and found["gpus"] == gpus
    (stage, *_), host = found["stages"], found["host"]["resting"]
    assert 0 < host < 300 * 2**30, "the host's memory is to hold what the GPUs give up"
    awake = planned(capsys, f"experiment={name}", "compute.offload=none", status=1)
    freed = planned(capsys, f"experiment={name}", "compute.offload=gradients", status=1)
    assert awake["reasons"] and freed["reasons"] and not awake["host"]["resting"]
    assert stage["sampling"] < freed["stages"][0]["sampling"] < awake["stages"][0]["sampling"]
    most = next(word for word in awake["suggestion"].split() if "max-total-tokens" in word)
    less = planned(capsys, f"experiment={name}", "compute.offload=none", most)
    assert less["fits"] and less["step_seconds"] > found["step_seconds"]


def test_with_optimizers_on_the_host_32b_fits_two_hosts(capsys):
    """And takes longer, for their CPUs update the weights."""
    given = ["experiment=oreal_32b_64gpu", "plan.gpus=16", "rollout.engines=2"]
    assert "while training" in planned(capsys, *given, status=1)["reasons"][0]
    on_host = [f"{model}.optimizer.on_host=true" for model in ("policy", "token_rm")]
    found = planned(capsys, *given, *on_host)
    assert found["fits"] and found["host"]["optimizers"] == pytest.approx(2 * 12 * 32.4e9 / 2, rel=0.02)
    assert all(model["optimizer"] == 0 for stage in found["stages"] for model in stage["models"].values())
    larger = ["experiment=oreal_32b_64gpu", "plan.gpus=32", "rollout.engines=4"]
    slower, faster = planned(capsys, *larger, *on_host), planned(capsys, *larger)
    assert slower["host"]["optimizers"] == found["host"]["optimizers"] / 2 and slower["host"]["resting"] < faster["host"]["resting"]
    for part in ("token_RM", "policy"):  # 32.8 B parameters of 34 bytes at 300 GB/s a host, and 6 bytes over PCIe
        took = slower["step"][part]["seconds"] - faster["step"][part]["seconds"]
        assert took == pytest.approx(32.76e9 * (34 / 4 / 300e9 + 6 / 32 / 50e9), rel=0.1)


@pytest.fixture(scope="module")
def built_32b() -> dict:
    """As a person calls it, in a process of its own; every stage's models are built."""
    command = [sys.executable, "tools/plan.py", "experiment=oreal_32b", "--json", "--build"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=400, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_moments_of_two_bytes_take_a_third_of_an_optimizer_from_gpus_and_checkpoints(capsys):
    given = ["experiment=oreal_32b", "policy.optimizer.betas=[0.9,0.95]"]
    plain, low = planned(capsys, *given), planned(capsys, *given, "policy.optimizer.moments=bfloat16")
    for before, after in zip(plain["stages"], low["stages"], strict=True):
        saved = before["state"] - after["state"]
        assert saved == pytest.approx(before["models"]["policy"]["optimizer"] / 3, rel=1e-6)
    assert low["host"]["saving"] < 0.95 * plain["host"]["saving"]


def test_the_formula_agrees_with_the_built_models_of_32b_on_128_gpus(capsys, built_32b):
    formula = planned(capsys, "experiment=oreal_32b")
    assert formula["fullest"] == pytest.approx(built_32b["fullest"], rel=0.05)
    for stage, expected in zip(built_32b["stages"], formula["stages"], strict=True):
        for role, model in stage["models"].items():
            for name, value in model.items():
                close = 0.05 if name == "activations" else 1e-3  # shards are padded
                assert expected["models"][role][name] == pytest.approx(value, rel=close), (stage["stage"], role, name)
        policy = stage["models"]["policy"]
        assert policy["optimizer"] == pytest.approx(12 * policy["parameters"] / 4, rel=1e-3)  # DP 4


def test_32b_as_shipped_is_built_and_fits(built_32b):
    found = built_32b
    assert found["layout"] == {"tp": 8, "pp": 4, "vpp": None, "cp": 1, "dp": 4}
    assert found["fits"] and found["fullest"] < found["gpu_memory"] == round(DEVICES["h100-80g"].memory)
    assert sum(stage["models"]["policy"]["parameters"] for stage in found["stages"]) * 8 == pytest.approx(found["parameters"], rel=1e-3)
    for stage in found["stages"]:
        models = stage["models"].values()
        state = sum(m["weights"] + m["gradients"] + m["optimizer"] for m in models)
        assert stage["state"] == state
        assert stage["training"] == pytest.approx(state + stage["activations"] + stage["allowance"] + stage["released"], abs=2)
        assert stage["activations"] == max(m["activations"] for m in models)
    assert found["stages"][3]["models"]["policy"]["logprobs"] > 0 == found["stages"][0]["models"]["policy"]["logprobs"]
    parts = [p for name, p in found["step"].items() if name != "verify"]
    assert found["step_seconds"] == pytest.approx(sum(p["seconds"] for p in parts))
    assert found["step_seconds_likely"] == pytest.approx([sum(p["likely"][end] for p in parts) for end in (0, 1)])


@pytest.mark.parametrize(
    ("overrides", "reason", "suggested"),
    [
        (["experiment=oreal_7b", "parallel.tp=2"], "GiB while sampling, an h100-80g has 79.1", "max-total-tokens"),
        (
            ["experiment=oreal_7b", "compute.recompute=none", "parallel.tp=1", "parallel.sequence_parallel=false"],
            "while training",
            "parallel.tp=",
        ),
        (["experiment=oreal_32b", "rollout.tp=1", "rollout.engines=128"], "while sampling", "rollout.tp=8 rollout.engines=16"),
        (["experiment=oreal_32b", "plan.gpus=64"], "64 GPUs hold 8 engines of rollout.tp=8, not rollout.engines=16", "rollout.engines=8"),
        (["experiment=oreal_32b", "rollout.sync=distributed"], "NCCL takes no two ranks on one GPU", "rollout.sync=tensor"),
        (["experiment=oreal_7b", "rollout.bind=127.0.0.1"], "hides the engines of 4 hosts", "rollout.bind=0.0.0.0"),
    ],
)
def test_what_does_not_fit_says_why_and_what_would(capsys, overrides, reason, suggested):
    found = planned(capsys, *overrides, status=1)
    assert any(reason in r for r in found["reasons"]), found["reasons"]
    assert suggested in found["suggestion"]
    again = planned(capsys, *overrides, *found["suggestion"].split())
    assert again["fits"]


def test_what_no_layout_fits_says_so(capsys):
    assert plan.main(["experiment=oreal_32b", "plan.gpus=8", "parallel.pp=1", "rollout.engines=1"]) == 1
    out = capsys.readouterr().out
    assert "does not fit: stage 0 needs" in out
    assert "more GPUs (plan.gpus), or larger ones (plan.gpu)" in out


def test_disaggregated_engines_have_their_own_gpus(capsys):
    overrides = ["experiment=oreal_7b", "rollout.placement=disaggregated", "rollout.sync=distributed", "rollout.engines=4"]
    found = planned(capsys, *overrides)
    assert all(stage["engine"] == stage["released"] == 0 for stage in found["stages"])
    assert "engines take 8 GPUs besides the 32 that train" in found["notes"]
    crowded = planned(capsys, *overrides, "rollout.tp=1", "rollout.server_args.max-total-tokens=16000", status=1)
    assert "has room for 16,000 tokens beside its weights, less than one trajectory" in crowded["reasons"][0]


def test_engines_that_keep_their_memory_are_there_while_the_models_train(capsys):
    asleep, awake = (planned(capsys, "experiment=oreal_7b", f"rollout.release_memory={r}") for r in ("true", "false"))
    gained = asleep["engine"]["total"] - asleep["engine"]["released"]
    assert awake["stages"][0]["training"] - asleep["stages"][0]["training"] == pytest.approx(gained, abs=2)


def test_the_search_finds_a_layout_that_is_no_slower(capsys):
    shipped = planned(capsys, "experiment=oreal_7b")
    found = planned(capsys, "experiment=oreal_7b", "--search")
    assert found["fits"] and found["step_seconds"] <= shipped["step_seconds"]
    seconds = [c["seconds"] for c in found["search"]]
    assert seconds == sorted(seconds) and seconds[0] == found["step_seconds"]
    asked = planned(capsys, "experiment=oreal_7b", *found["search"][0]["overrides"])
    assert (asked["layout"], asked["fullest"]) == (found["layout"], found["fullest"])


@pytest.mark.slow
def test_the_searchs_best_is_confirmed_by_a_build(capsys):
    found = planned(capsys, "experiment=oreal_7b", "--search", "--build")
    assert found["fits"] and not any("by the formula" in note for note in found["notes"])


def test_over_disk_all_weights_are_written_only_where_nobody_keeps_a_copy(capsys):
    """From half of the bytes to all of them: written once and read by sixteen hosts, at 10 GB/s."""
    colocated, urls = ["experiment=oreal_32b", "rollout.sync=disk"], [f"http://h{host}:1" for host in range(16)]
    half, whole, elsewhere = (
        planned(capsys, *overrides)
        for overrides in (
            [*colocated, "plan.changed=0.5"],
            [*colocated, "plan.changed=1"],
            [*colocated, "plan.changed=0.5", "rollout.placement=external", f"rollout.urls=[{','.join(urls)}]"],
        )
    )
    in_all = 2 * whole["parameters"] * 17 / 10e9
    assert seconds_of(whole, "sync") - seconds_of(half, "sync") == pytest.approx(in_all / 2, rel=1e-3)
    assert seconds_of(elsewhere, "sync") == pytest.approx(in_all, rel=1e-3)
    assert any("rollout.sync_copy: 61.0 GiB" in note for note in half["notes"])


def seconds_of(found: dict, part: str) -> float:
    return found["step"][part]["seconds"]


def test_a_folders_own_shape_is_planned(capsys, tiny_model):
    found = planned(capsys, f"model.path={tiny_model()}", "plan.gpus=1", "rollout.sync=disk")
    assert found["parameters"] < 1e5 and found["shape"] == tiny_model()
    elsewhere = planned(capsys, "experiment=oreal_7b", "model.path=no/such")
    assert elsewhere["shape"] == "qwen2.5-7b, as model.path=no/such is not here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=oreal_7b", "plan.gpu=h300"], "plan.gpu='h300' is not one of a100-80g, h100-80g, h200"),
        (["experiment=oreal_7b", "plan.shape=gpt5"], "plan.shape='gpt5' is not one of qwen2.5-0.5b, qwen2.5-1.5b"),
        (["experiment=oreal_7b", "plan.gpux=8"], "unknown key plan.gpux"),
        (["experiment=oreal_7b", "plan.gpus=12"], "plan.gpus=12 are no whole hosts of 8 GPUs"),
        (["experiment=oreal_32b", "plan.gpus=16"], "world size 16 is not TP 8 x PP 4 x CP 1 x DP"),
        (["experiment=oreal_7b", "parallel.tp=8"], "28 attention heads cannot be split over parallel.tp=8"),
        (["plan.gpus=8"], "plan: model.path=null is no folder here, and plan.shape is not set"),
        (["experiment=demo"], "plan.gpus is missing"),
    ],
)
def test_wrong_input_is_said(capsys, arguments, message):
    assert plan.main([*arguments]) == 2
    first, *more = capsys.readouterr().err.splitlines()
    assert message in first and all(line.startswith("error: ") for line in (first, *more))


def test_a_training_run_knows_nothing_of_the_plan(capsys):
    assert train.main(["experiment=oreal_7b", "model.path=M", "data.train=D", "plan.gpus=8"]) == 2
    assert "unknown key plan.gpus; known" in capsys.readouterr().err


def test_a_plan_needs_no_torch():
    """It would be most of what a plan takes."""
    asked = ["experiment=oreal_7b", "--json"]
    looks = (
        f"import sys; from megatron_oreal.plan import command; status = command.main({asked}); sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", looks], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr


def memory(kv_tokens: int) -> EngineMemory:
    return EngineMemory(weights=8e9, kv_cache=kv_tokens * 1e5, working=0.0, released=0.0, kv_tokens=kv_tokens, wanted_tokens=kv_tokens)


def sampling(lengths: list[int], kv_tokens: int, *overrides: str) -> float:
    """By stated figures, of an engine of one GPU."""
    asked = ["experiment=oreal_7b", "plan.tables=null", "rollout.tp=1", "plan.lengths.prompt=1", "plan.decode_overhead_ms=2", *overrides]
    config = compose(asked)
    hf = architecture_of("", config.plan.shape).sizes
    return sampling_seconds(engine.sampler(config, hf, memory(kv_tokens)), tuple(lengths))


def test_sampling_takes_what_reading_weights_and_cache_takes():
    bandwidth, tokens = 3.35e12 * 0.75, 640
    weights = (7_615_616_512 - 152064 * 3584) * 2  # the embedding is not read
    cache = sum(range(tokens)) * 2 * 28 * 4 * 128 * 2  # bytes of keys and values, over all steps
    by_hand = tokens * (weights / bandwidth + 2e-3) + cache / bandwidth
    launches = tokens * (28 * 8 + 2) * 3e-6
    assert sampling([tokens], 10**6) == pytest.approx(by_hand + launches, rel=0.02)


def test_what_the_cache_does_not_hold_waits():
    together, one_by_one = sampling([640, 640], 10**6), sampling([640, 640], 700)
    assert one_by_one == pytest.approx(2 * sampling([640], 10**6), rel=0.01)
    assert together < 0.6 * one_by_one
    assert sampling([640] * 64, 10**6, "rollout.concurrency=1") > 3 * sampling([640] * 16, 10**6)  # 16 samples of a question at a time


def test_beyond_its_graphs_an_engine_is_as_slow_as_its_launches():
    by_graph, eager = (sampling([64], 10**6, "rollout.tp=4", f"++rollout.server_args.cuda-graph-max-bs={most}") for most in (1, 0))
    assert eager > by_graph and eager == pytest.approx(64 * (28 * EAGER_LAYER_S + 2e-3), rel=0.05)


@pytest.mark.parametrize(
    ("override", "least"), [("debug=rollout_only ++rollout.server_args.quantization=fp8", 1.3), ("rollout.kv_cache_dtype=fp8_e4m3", 1.01)]
)
def test_fewer_bits_are_read_faster(override, least):
    many, tokens = [640] * 32, 10**6
    assert sampling(many, tokens) > least * sampling(many, tokens, *override.split())


def test_a_cache_of_8_bits_holds_twice_as_many_tokens(capsys):
    unsized = ["experiment=oreal_32b", "rollout.server_args.max-total-tokens=null", "data.questions_per_step=512"]
    whole, half = (planned(capsys, *unsized, *more)["engine"] for more in ([], ["rollout.kv_cache_dtype=fp8_e5m2"]))
    assert half["kv_cache"] == pytest.approx(whole["kv_cache"], rel=0.001)
    assert half["kv_tokens"] == pytest.approx(2 * whole["kv_tokens"], rel=0.001)


def test_speculation_is_said_not_to_be_planned_and_runs_few_sequences(capsys):
    found = planned(capsys, "experiment=oreal_32b", "rollout.speculative=ngram")
    assert [note for note in found["notes"] if "rollout.speculative=ngram saves is not planned" in note and "48 sequences" in note]


@pytest.mark.skipif(not measured("h100-80g", "sglang"), reason="needs aiconfigurator-core")
def test_measured_engines_behave_as_engines_do():
    """The tables are another's: what is held here is that we ask them for the right operations."""
    config = compose(["experiment=oreal_32b"])
    served = engine.sampler(config, architecture_of("", config.plan.shape).sizes, memory(10**6)).served
    one, many, longer = served.decode_s(1, 1500), served.decode_s(64, 1500), served.decode_s(64, 14000)
    assert 65.5e9 / 8 / 3.35e12 < one < many < longer < 64 * one
    cached = 64 * 12500 * 2 * 64 * 128 * 2 / 3.35e12  # bytes that the longer ones read besides, a GPU, at the stated bandwidth
    assert cached < longer - many < 3 * cached
    assert "h100_sxm" in served.prices.source and "stated" in engine.stated(config).source


def test_training_flops_are_those_of_all_tokens_and_passes():
    config = compose(["experiment=oreal_7b"])
    hf = architecture_of("", config.plan.shape).sizes
    tokens = sum(timing.trained_lengths(config))
    parts = {p.name: p for p in timing.training_parts(config, hf, 7_615_616_512)}
    weights = 7_615_616_512 - 152064 * 3584  # the embedding multiplies nothing
    assert parts["reference"].flops == pytest.approx(2 * weights * tokens, rel=0.15)  # attention comes on top
    assert parts["policy"].flops == pytest.approx(4 * parts["reference"].flops, rel=1e-9)  # forward twice, backward
    plain = {p.name: p for p in timing.training_parts(compose(["experiment=oreal_7b", "compute.recompute=none"]), hf, 7_615_616_512)}
    assert plain["token RM"].flops == pytest.approx(0.75 * parts["token RM"].flops)
    everything = compose(["experiment=oreal_7b_no_rm"])
    assert len(timing.trained_lengths(everything)) == 64 * 16
    assert "token RM" not in {p.name for p in timing.training_parts(everything, hf, 7_615_616_512)}


@pytest.mark.parametrize("model", ["token RM", "policy"])
def test_of_messages_that_overlap_the_last_bucket_is_waited_for(model):
    """And of the policy's weights all: the sync reads them at once."""

    def seconds(gradients: bool, weights: bool) -> float:
        overlaps = [f"learn.overlap_grad_reduce={gradients}", f"learn.overlap_param_gather={weights}"]
        config = compose(["experiment=oreal_7b", "plan.tables=null", *overlaps])
        parts = timing.training_parts(config, architecture_of("", config.plan.shape).sizes, 7_615_616_512)
        return next(p.seconds for p in parts if p.name == model)

    alone, reduced, both = seconds(False, False), seconds(True, False), seconds(True, True)
    second = 7_615_616_512 / 4 * 7 / 8 / (2 * 50e9 * 0.7)  # for a byte of a parameter: TP 4, DP 8, two network cards a group
    hidden = 1 - 40e6 / (7_615_616_512 / 4)
    assert alone - reduced == pytest.approx(hidden * 4 * second, rel=1e-3)
    assert reduced - both == pytest.approx(hidden * 2 * second if model == "token RM" else 0, rel=1e-3, abs=1e-9)


def test_a_gpus_memory_is_not_its_gigabytes():
    assert 79e9 < DEVICES["h100-80g"].memory == 79.1 * GIB < 80 * GIB
