"""Every experiment composes; all that is wrong with a configuration is said, a line each, with status 2 before anything starts."""

import os
import shutil
import subprocess
import sys
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from megatron_oreal import sft, train
from megatron_oreal.config import EvaluateConfig, PassrateConfig, SelectConfig, SftConfig, TrainConfig, load
from megatron_oreal.data.config import TrainSet
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.keys.files import conf_dir
from megatron_oreal.launcher import Placement
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.plan.config import Planned

GIVEN = ["model.path=M", "data.train=D"]
SHORT = {"rollout.max_total_tokens": 200, "rollout.max_new_tokens": 100}  # within a tiny model's positions
EXPERIMENTS = sorted(p.stem for p in (Path(__file__).parents[1] / "conf" / "experiment").glob("*.yaml"))
OTHER_SCHEMAS = {
    "chains_sft": ("sft", SftConfig, GIVEN),
    "demo_sft": ("sft", SftConfig, GIVEN),
    "sft_7b": ("sft", SftConfig, GIVEN),
    "demo_passrate": ("passrate", PassrateConfig, ["model.path=M", "questions=Q", "out=O"]),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    entry, schema, given = OTHER_SCHEMAS.get(name, ("train", TrainConfig, GIVEN))
    assert isinstance(load(schema, entry, [f"experiment={name}", *given]), schema)


def test_the_32b_preset_has_the_papers_values_and_overrides_pass_through():
    config = load(TrainConfig, "train", ["experiment=oreal_32b", *GIVEN, "policy.optimizer.lr=1e-6"])
    assert (config.data.questions_per_step, config.rollout.samples, config.rollout.max_new_tokens) == (64, 16, 14000)
    assert (config.steps, config.policy.freeze_steps, config.policy.optimizer.lr) == (90, 10, 1e-6)
    assert config.parallel.data_parallel(128) == 4
    assert config.objective == Objective.released()
    assert load(TrainConfig, "train", ["objective=paper", *GIVEN]).objective == Objective.paper()


def parts_of(schema: type) -> set[type]:
    """All dataclasses that a configuration is made of."""
    found, left = set(), [schema]
    while left:
        kind = left.pop()
        if is_dataclass(kind) and kind not in found:
            found.add(kind)
            left += get_type_hints(kind).values()
        left += get_args(kind)
    return found


def test_a_default_stands_in_conf_alone():
    parts = set().union(*map(parts_of, (TrainConfig, SftConfig, EvaluateConfig, PassrateConfig, SelectConfig, Planned)))
    assert {"OptimizerConfig", "JudgeConfig", "WandbConfig", "EvalSet", "Lengths", "SftData"} <= {kind.__name__ for kind in parts}
    with_default = {
        kind: {f.name: f.default for f in fields(kind) if (f.default, f.default_factory) != (MISSING, MISSING)} for kind in parts
    }
    released = OmegaConf.to_container(OmegaConf.load(conf_dir() / "objective" / "released.yaml"))
    assert with_default.pop(Objective) == asdict(Objective()) == released  # it is also used without any file
    for entry in (EvalSet, TrainSet):  # of eval.sets, data.sets: what it leaves open is as in eval, in data
        assert set(with_default.pop(entry).values()) == {None}
    assert not any(with_default.values())


def test_the_configuration_is_read_without_torch():
    """Launchers and engines' hosts do no more than that; torch takes a second."""
    subprocess.run([sys.executable, "-c", "import megatron_oreal.config, sys; assert 'torch' not in sys.modules"], check=True, timeout=60)


def test_evaluation_composes_from_any_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert conf_dir().is_absolute()
    assert load(EvaluateConfig, "evaluate", ["model.path=M", "eval.data=E"]).eval.data == "E"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.optimizer.lrr=1", "unknown key policy.optimizer.lrr"),
        ("+policy.optimizer.lrr=1", "unknown key policy.optimizer.lrr"),
        ("experiment=oreal_33b", "oreal_33b"),
        ("steps=many", "steps='many': Expected `int`, got `str`"),
        ("policy.freeze_steps=90", "steps=90 must be above policy.freeze_steps=90"),
        ("~rollout.max_age", "rollout.max_age is missing"),
        ("rollout.samples=1", "rollout.samples=1 must be at least 2"),
        ("rollout.sync_timeout_s=601", "parallel.timeout_s=600 is below rollout.sync_timeout_s=601"),
        ("rollout.top_p=0", "rollout.top_p=0.0 must"),
        ("rollout.placement=external", "rollout.urls=[] must be given if and only if placement is external"),
        ("rollout.in_flight=0.5", "rollout.in_flight=0.5 must"),
        ("rollout.speculative=eagle", "rollout.speculative='eagle' must be none or ngram"),
        ("rollout.speculative=ngram rollout.deterministic=true", "rollout.speculative=ngram drafts from all that an engine samples"),
        (
            "rollout.kv_cache_dtype=fp8_e4m3 rollout.placement=external rollout.urls=[http://a:1]",
            "rollout.kv_cache_dtype=fp8_e4m3 is for engines",
        ),
        ("+rollout.server_args.kv-cache-dtype=fp8_e5m2", "rollout.server_args.kv-cache-dtype is said by rollout.kv_cache_dtype=auto"),
        ("+rollout.server_args.speculative-algorithm=EAGLE", "rollout.server_args.speculative-algorithm is said by rollout.speculative"),
        ("+rollout.server_args.quantization=fp8", "rollout.server_args.quantization=fp8: SGLang cannot load new weights into those"),
        ("policy.optimizer.moments=half", "policy.optimizer.moments=half must be float32 or bfloat16"),
        ("token_rm.optimizer.moments=bfloat16", "token_rm.optimizer.moments=bfloat16 needs betas of at most 0.98, not [0.9, 0.999]"),
        (
            "policy.optimizer.moments=bfloat16 policy.optimizer.betas=[0.9,0.95] model.dtype=float32",
            "policy.optimizer.moments=bfloat16 needs model.dtype=bfloat16",
        ),
        ("rollout.max_new_tokens=20000", "rollout.max_new_tokens=20000 must be below rollout.max_total_tokens"),
        ("objective.advantage=gae", "objective.advantage is 'gae', allowed: rloo, grpo"),
        ("objective.token_rm=false", "policy.freeze_steps must be 0 where objective.token_rm is false"),
        ("parallel.sequence_parallel=true", "parallel.sequence_parallel=true needs parallel.tp > 1"),
        ("policy.optimizer.min_lr=1", "policy.optimizer.min_lr=1.0 must lie between 0 and lr="),
        ("model.dtype=float8", "model.dtype='float8' is not one of float32, bfloat16"),
        ("learn.tokens_per_micro_batch=100", "is below rollout.max_total_tokens=16384"),
        ("parallel.cp=3", "is below rollout.max_total_tokens=16384, padded to 16386 for parallel.cp=3"),
        ("data.train=???", "data.train is missing"),
        ("data.train=null", "data.train is missing: data.train=FILE, or data.sets.NAME=FILE for each of several"),
        ("data.fields.answer=a", "data.fields.answer is no field of ours; they are question, gold_answer, solution, id, pass_rate"),
        ("data.fields.question=null", "data.fields.question=None: there must be one"),
        ("data.sets.a.data=A data.sets.a.weight=2", "data.sets: D must have a weight as the others have, or none of them"),
        ("data.train=null data.sets.a.data=A data.sets.a.weight=0", "data.sets.a.weight=0.0 must be above 0"),
        ("data.sets.a.data=A data.sets.a.dat=A", "unknown key data.sets.a.dat"),
        ("data.sets.D=A", "data.sets.D: data.train has the same name"),
        ("eval.sets.a.data=A eval.sets.a.fields.kind=k", "eval.sets.a.fields.kind is no field of ours"),
        ("verify.mode=ask", "verify.mode='ask' must be rule or judge or rule_then_judge"),
        ("verify.undecided=right", "verify.undecided='right' must be drop or wrong"),
        ("verify.mode=judge verify.judge.model=J", "verify.judge.urls=[] must be given where verify.mode=judge"),
        ("monitor.wandb.mode=live", "monitor.wandb.mode='live' is not one of offline, online"),
        ("profile.kind=nsys", "profile.kind='nsys' is not torch or null"),
        ("profile.first=0", "profile.first=0 must be at least 1"),
        (
            "policy.warmup_counts_frozen=false steps=20",
            "policy.optimizer.warmup_steps=10 must be below steps=20 without the 10 frozen ones (policy.warmup_counts_frozen=false)",
        ),
        ("verify=rule_then_judge verify.judge.model=J", "verify.judge.urls=[] must be given where verify.mode=rule_then_judge"),
    ],
)
def test_wrong_values_are_one_line(capsys, override, message):
    assert train.main([*GIVEN, *override.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.path": "no/such/folder"}, "model.path: no/such/folder is no Hugging Face model folder (config.json is missing)"),
        ({"rollout.stop_word": "the end"}, "rollout.stop_word: 'the end' is"),
        ({"data.train": "no/such.jsonl"}, "no/such.jsonl: no such file"),
        (
            {"verify": "judge", "verify.judge.urls": "[http://h]", "verify.judge.model": "J", "verify.judge.key_file": "no/key"},
            "verify.judge.key_file: [Errno 2] No such file or directory: 'no/key'",
        ),
        ({"data.train": "BAD"}, "bad.jsonl:2: field 'gold_answer' is missing"),
    ],
)
def test_wrong_files_are_one_line(capsys, tiny_model, tmp_path, changes, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "1+1", "gold_answer": "2"}\n{"question": "1+1"}\n')
    values = {"model.path": tiny_model(tokenizer=True, vocab_size=520), "data.train": str(bad), "run_dir": str(tmp_path / "run")}
    values |= SHORT
    values |= {k: str(bad) if v == "BAD" else v for k, v in changes.items()}
    capsys.readouterr()
    assert train.main([f"{k}={v}" for k, v in values.items()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [train, sft])
def test_a_model_that_does_not_fit_its_config_is_one_line_before_any_rank_starts(capsys, tiny_model, tmp_path, command):
    model = tmp_path / "model"
    shutil.copytree(tiny_model(tokenizer=True, vocab_size=520), model)
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors")
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "1+1", "gold_answer": "2", "response": "2"}\n')
    capsys.readouterr()
    short = [f"{key}={value}" for key, value in SHORT.items()] if command is train else []
    assert command.main([f"model.path={model}", f"data.train={data}", f"run_dir={tmp_path / 'run'}", *short]) == 2
    error = capsys.readouterr().err
    assert f"model: {model} lacks model.layers.3.mlp.up_proj.weight" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_all_that_is_wrong_is_said_together(capsys):
    """Of every section, and several of one; then what sections that are sound require of each other."""
    wrong = {
        "policy.optimizer.lrr=1": "unknown key policy.optimizer.lrr",
        "token_rm.optimizer.warmup_steps=-1": "token_rm.optimizer.warmup_steps=-1 must not be negative",
        "rollout.samples=few": "rollout.samples='few': Expected `int`",
        "+rollout.tial=0": "unknown key rollout.tial",
        "parallel.tp=0": "parallel.tp=0 must",
        "parallel.dp=0": "parallel.dp=0 must",
        "verify.workers=0": "verify.workers=0 must",
        "eval.temperature=0": "eval.temperature=0.0 must",  # once, although two sets take it from there
        "eval.sets={a: A, b: {data: B, top_p: 2}}": "eval.sets.b.top_p=2.0 must",
        "checkpoint.interval=0": "checkpoint.interval=0 must",
        "objective.loss=ppo": "objective.loss is 'ppo', allowed: oreal, reinforce",
        "objective.eta=-1": "objective.eta is -1.0, allowed",
        "data.train=???": "data.train is missing",
        "~profile.first": "profile.first is missing",
        "stesp=3": "unknown key stesp",
    }
    assert train.main([*GIVEN, *wrong]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(wrong), lines
    for one in wrong.values():
        assert any(line.startswith(f"error: config: {one}") for line in lines), one

    assert train.main([*GIVEN, "steps=5", "rollout.max_new_tokens=20000", "learn.tokens_per_micro_batch=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert {line.split()[2].partition("=")[0] for line in lines} == {
        "steps",
        "policy.optimizer.warmup_steps",
        "token_rm.optimizer.warmup_steps",
        "rollout.max_new_tokens",
        "learn.tokens_per_micro_batch",
    }


HEADS_ON_THREE = "error{}: model: 4 attention heads cannot be split over parallel.tp=3"


@pytest.mark.parametrize("rank", [{}, {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}])
@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_layout_that_the_model_does_not_divide_by_is_refused_before_anything_heavy_is_imported(tiny_model, tmp_path, command, rank):
    """By whoever starts the ranks, and by a rank that a launcher started."""
    overrides = [f"model.path={tiny_model()}", "data.train=D", f"run_dir={tmp_path / 'run'}", "parallel.tp=3"]
    heavy = "[m for m in ('torch', 'transformers', 'megatron') if m in sys.modules]"
    code = f"import sys; from megatron_oreal import {command} as c; status = c.main({overrides}); assert not {heavy}; sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | rank, capture_output=True, text=True, timeout=60)
    said = HEADS_ON_THREE.format(" (rank 0)" if rank else "")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, said)
    assert all(line.startswith("error") for line in done.stderr.splitlines()) and not (tmp_path / "run").exists()


def test_a_judge_is_set_on_the_command_line(capsys):
    given = ["verify.judge.urls=[http://a:1,http://b:2]", "verify.judge.model=J"]
    config = load(TrainConfig, "train", [*GIVEN, "verify=rule_then_judge", *given, "verify.judge_on=undecided"])
    assert (config.verify.mode, config.verify.judge_on, config.verify.judge.urls) == (
        "rule_then_judge",
        "undecided",
        ["http://a:1", "http://b:2"],
    )
    assert load(EvaluateConfig, "evaluate", ["model.path=M", "eval.data=E", "verify=judge", *given]).verify.mode == "judge"
    for override, message in (
        ("verify.judge.model=null", "verify.judge.model=None must be given"),
        ("verify.judge.attempts=0", "verify.judge.attempts=0 must be at least 1"),
        ("verify.judge.urls=[http://a:1,http://a:1]", "all different"),
        ("verify.mode=rule", "must be empty where verify.mode=rule"),
        ("verify.judge_on=wrong", "verify.judge_on='wrong' must be undecided or not_right"),
    ):
        assert train.main([*GIVEN, "verify=rule_then_judge", *given, override]) == 2
        assert message in capsys.readouterr().err


def test_wrong_input_is_said_once_a_host(capsys, monkeypatch, tmp_path):
    for rank in ("8", "9"):
        for name, value in (("RANK", rank), ("WORLD_SIZE", "16"), ("LOCAL_RANK", str(int(rank) - 8))):
            monkeypatch.setenv(name, value)
        assert train.main([*GIVEN, "model.path=no/such/folder", f"run_dir={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err == "error (rank 8): model.path: no/such/folder is no Hugging Face model folder (config.json is missing)\n"
    )


@pytest.mark.parametrize(
    "override",
    ["rollout.server_args={mem-fraction-static: 0.35}", "rollout.server_args.mem-fraction-static=0.35", "+rollout.server_args.x=1"],
)
def test_flags_of_the_engine_need_no_plus(override):
    """Keys that are the user's own are taken with and without one."""
    config = load(TrainConfig, "train", ["experiment=oreal_7b", *GIVEN, override])
    given = {"x": 1} if "x=" in override else {"mem-fraction-static": 0.35}
    assert given.items() <= config.rollout.server_args.items() and len(config.rollout.server_args) > 1  # besides the experiment's own
    assert "s" in load(TrainConfig, "train", [*GIVEN, "eval.sets.s=FILE"]).eval.resolved()


def test_a_group_that_loses_to_the_experiment_is_refused():
    with pytest.raises(ValueError, match=r"parallel=tp2 sets parallel\.tp=2, but the experiment sets 4; give parallel\.tp=\.\.\. as well"):
        load(TrainConfig, "train", ["experiment=oreal_7b", *GIVEN, "parallel=tp2"])
    assert load(TrainConfig, "train", ["experiment=oreal_7b", *GIVEN, "parallel=tp2", "parallel.tp=2"]).parallel.tp == 2
    assert load(TrainConfig, "train", ["experiment=demo", *GIVEN, "parallel=tp2", "profile=torch", "profile.first=3"]).parallel.tp == 2
    assert load(TrainConfig, "train", ["experiment=demo", *GIVEN, "parallel=auto"]).parallel.timeout_s == 120  # the experiment's own


def test_what_is_not_used_is_not_checked():
    """The length of sampled answers in an evaluation, which has its own; the schedule of a token reward model that there is not."""
    given = ["model.path=m", "eval.data=FILE", "eval.max_new_tokens=400", "rollout.max_total_tokens=1024"]
    assert load(EvaluateConfig, "evaluate", given).rollout.max_total_tokens == 1024
    none = ["experiment=oreal_7b_no_rm", *GIVEN, "steps=3", "policy.optimizer.warmup_steps=1"]
    assert not load(TrainConfig, "train", none).objective.token_rm
    with pytest.raises(ValueError, match="token_rm.optimizer.warmup_steps"):
        load(TrainConfig, "train", ["experiment=oreal_7b", *GIVEN, "steps=5", "policy.freeze_steps=1", "policy.optimizer.warmup_steps=1"])


def test_a_world_that_is_not_the_layout_is_refused(monkeypatch):
    config = load(TrainConfig, "train", ["experiment=oreal_32b", *GIVEN])
    with pytest.raises(ValueError, match="world size 12 is not TP 8 x PP 4 x CP 1 x DP"):
        config.parallel.data_parallel(12)
    with pytest.raises(ValueError, match="world size 4 is not TP 1 x PP 1 x CP 1 x DP 2"):
        load(TrainConfig, "train", ["parallel=dp2", *GIVEN]).parallel.data_parallel(4)


def test_ranks_are_found_from_torchrun_and_from_srun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    assert Placement.detect() == Placement(0, 1, 0)
    for name, value in (("SLURM_PROCID", "9"), ("SLURM_NTASKS", "16"), ("SLURM_LOCALID", "1")):
        monkeypatch.setenv(name, value)
    assert Placement.detect() == Placement(9, 16, 1)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    assert Placement.detect() == Placement(3, 4, 3)
