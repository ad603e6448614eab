"""Command lines as people mistype them: the nearest name, quotes that a real shell hands on, paths; and what keys mean."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig, load
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.keys import quoting
from megatron_oreal.keys.compose import compose, taken
from megatron_oreal.keys.files import conf_dir
from megatron_oreal.keys.meanings import Key, keys_with_meanings
from megatron_oreal.plan.config import Planned

GIVEN = ["model.path=M", "data.train=D"]
CONFIGS = {"train": TrainConfig, "sft": SftConfig, "evaluate": EvaluateConfig, "passrate": PassrateConfig, "plan": Planned}


def wrong(*overrides: str) -> str:
    """What is said of a training run with these."""
    with pytest.raises(ValueError) as refused:
        load(TrainConfig, "train", [*GIVEN, *overrides])
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("policy.optimizer.lrr=1", "policy.optimizer.lr"),
        ("lr=1", "policy.optimizer.lr or token_rm.optimizer.lr"),
        ("rolout.samples=4", "rollout.samples"),
        ("rollout.max_tokens=9", "rollout.max_new_tokens or rollout.max_total_tokens"),
        ("experimnt=demo", "experiment"),
        ("experiment=oreal_33b", "oreal_32b"),
        ("verify.judge.chache=x", "verify.judge.cache"),
        ("eval.set.x=FILE", "eval.sets"),
        ("demo", "experiment=demo"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(override, meant):
    said = wrong(override)
    assert f"did you mean {meant}?" in said and said.count("\n") == 0


def test_where_nothing_is_near_there_is_what_is_known():
    assert "unknown key zzz; known: bench_steps, checkpoint, compute, data" in wrong("zzz=1")
    assert "(auto, dp2, pp2, tp2)" in wrong("parallel=zzz")


def test_an_experiment_of_another_command_is_refused_by_name():
    said = wrong("experiment=demo_sft")
    assert "is for another command: it sets examples_per_step" in said and said.endswith("oreal_7b_r1, small") and said.count("\n") == 0


AWKWARD = [*" =~[]{},'\"$\\:()#;&|<>!*?%@^`+é\t\n", "${", "${x}", "a=b c", "[x]y", "{a}", "a,b", "(1)", "~/", "'\""]
TYPED = [form.replace("{}", one) for one in AWKWARD for form in ("/models/a{}b", "{}", "/models/{}", "{}/b", "/x y/{}", "a{}{}'b{}")]


def in_bash(*written: str) -> list[str]:
    """The arguments that a command gets where this is pasted into a line of bash."""
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(written)}"], capture_output=True, timeout=20, check=True)
    return shell.stdout.decode().split("\0")[:-1]


def read(override: str) -> object:
    """Its value, as Hydra and OmegaConf have it."""
    return OmegaConf.to_container(OmegaConf.create({"key": quoting.parsed(override).value()}), resolve=True)["key"]


def test_the_quotes_that_are_advised_work_when_pasted_into_a_shell():
    """What needs none is what was typed, but for white space around it, escapes that were complete, and what is an interpolation, a list
    or a dictionary to Hydra as it stands."""
    advised = {}
    for typed in TYPED:
        (line,) = list(quoting.unreadable([f"key={typed}"])) or [""]
        if line:
            advised[typed] = line.partition("write ")[2].rpartition(", or ")[0] or line.partition("write ")[2]
        elif "${" not in typed:
            assert str(read(f"key={typed}")) in (typed.strip(), typed.replace("\\/", "/")) or typed in ("[]", "{}"), typed
    assert len(advised) > len(TYPED) / 2
    given = in_bash(*advised.values())
    wrong_way = {typed: override for typed, override in zip(advised, given, strict=True) if read(override) != typed}
    assert not wrong_way


@pytest.mark.parametrize("typed", ["/a=b", "/models (v2)/x", "/a,b", "/é's", "${x}", "2024", "1e5", "true", "[a]b", "[x]"])
def test_what_is_advised_is_the_path_that_was_typed(typed):
    advised = re.search(r"(?:write|as text:) ('.*?')(?:, or .*)?$", wrong(f"model.path={typed}"))[1]
    assert load(TrainConfig, "train", [*GIVEN, *in_bash(advised)]).model.path == typed


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("rollout.urls=[http://h:1,http://~x]", ["http://h:1", "http://~x"]),
        ("rollout.urls=[http://[::1]:7, http://h:1/a=b]", ["http://[::1]:7", "http://h:1/a=b"]),
    ],
)
def test_in_a_list_the_strings_are_quoted_one_by_one(typed, expected):
    pasted = in_bash(wrong(typed).partition("write ")[2])
    assert load(TrainConfig, "train", [*GIVEN, "rollout.placement=external", *pasted]).rollout.urls == expected


def test_a_value_that_the_shell_took_apart_is_put_together():
    assert wrong("model.path=/my", "own", "model", "steps=100").endswith("write 'model.path=/my own model'")


def test_what_the_locale_could_not_decode_is_told_from_what_is_to_be_quoted():
    said = wrong("model.path=T\udcc3\udcbc")
    assert said.endswith("; export LC_ALL=C.UTF-8, or rename what is called so") and "quote" not in said and "write" not in said


def test_every_key_that_is_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    given = ["run_dir=~/run", "eval.sets.a=~/a", "eval.sets.b.data=~/b", "verify.judge.cache=~/c", "resume=~/my run (2)", "eval.data=~"]
    config = load(TrainConfig, "train", ["model.path=~/m", "data.train=~/d", *given])
    home = "/home/of/mine"
    assert (config.model.path, config.data.train, config.run_dir) == (f"{home}/m", f"{home}/d", f"{home}/run")
    assert config.eval.sets == {"a": f"{home}/a", "b": EvalSet(f"{home}/b")} and config.eval.data == home
    assert (config.verify.judge.cache, config.resume) == (f"{home}/c", f"{home}/my run (2)")
    assert load(TrainConfig, "train", [*GIVEN, "data.system_prompt=~/x"]).data.system_prompt == "~/x"  # a text is no path


def explained(name: str, *overrides: str) -> list[Key]:
    composed = compose(name, overrides, [field.name for field in fields(CONFIGS[name])])
    return keys_with_meanings(composed, taken(name, overrides).files)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_has_a_meaning_and_its_value_is_hydras(name):
    keys = explained(name)
    assert len(keys) > 20 and not [key.name for key in keys if not key.meaning]
    (rollout,) = conf_dir().glob("rollout/sglang.yaml")
    plain = OmegaConf.load(rollout)
    shown = {key.name: key.value for key in keys if key.name.startswith("rollout.")}
    assert all(plain[key.removeprefix("rollout.")] == value for key, value in shown.items()) and shown


def test_a_meaning_is_that_of_the_file_that_says_it_last():
    keys = {key.name: key for key in explained("train", "experiment=small")}
    assert keys["rollout.samples"].written == "rollout.samples=8" and keys["rollout.samples"].meaning == "K trajectories a question"
    assert keys["model.dtype"].meaning == "or float32; here: what CPUs compute fast"
    assert keys["token_rm.optimizer.lr"].meaning == keys["policy.optimizer.lr"].meaning != ""
    assert Path(conf_dir() / "optimizer" / "adamw.yaml").read_text().count(keys["policy.optimizer.lr"].meaning) == 1
