"""A run that goes on says what is given otherwise than before, and begins from no other model."""

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_oreal.data.config import TrainSet
from megatron_oreal.learn.checkpoint import STATE
from megatron_oreal.model.hf_files import fingerprint
from megatron_oreal.run_state import RunState, changed_since, settings_of
from tests.settings import optimizer, policy_config, tiny_run


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run with two weighted sets, on a model of its own."""
    config = tiny_run(shutil.copytree(tiny_model(), tmp_path / "model").as_posix())
    sets = {"a": TrainSet("A", weight=3.0), "b": TrainSet("B", weight=1.0)}
    return replace(config, data=replace(config.data, train=None, sets=sets))


@pytest.fixture
def checkpoint(run, tmp_path) -> Path:
    state = RunState(3, settings=settings_of(run), model=fingerprint(run.model.path))
    (tmp_path / STATE).write_bytes(msgspec.json.encode(state))
    return tmp_path


def test_the_same_command_says_nothing_and_an_old_checkpoint_knows_nothing(run, checkpoint):
    assert changed_since(None, run) == changed_since(checkpoint, run) == changed_since(checkpoint, replace(run, run_dir="elsewhere")) == []
    (checkpoint / STATE).write_bytes(msgspec.json.encode({"step": 3}))
    assert changed_since(checkpoint, replace(run, steps=9)) == []


def test_steps_learning_rates_and_weights_of_data_are_named(run, checkpoint):
    sets = run.data.sets | {"b": TrainSet("B", weight=2.0)}
    now = replace(run, steps=9, data=replace(run.data, sets=sets), policy=policy_config(optimizer=optimizer(lr=1e-3), freeze_steps=1))
    (line,) = changed_since(checkpoint, now)
    assert line.startswith("resume: what is given now counts: ")
    for change in ("steps=9 (was 5)", "data.sets.b.weight=2.0 (was 1.0)", "policy.optimizer.lr=0.001 (was 0.003)"):
        assert change in line
    assert line.count("(was") == 4  # and min_lr


def test_another_model_is_refused_wherever_it_is(run, checkpoint, tmp_path):
    moved = shutil.copytree(run.model.path, tmp_path / "moved").as_posix()
    (line,) = changed_since(checkpoint, replace(run, model=replace(run.model, path=moved)))
    assert f"model.path={moved}" in line
    weights = load_file(f"{run.model.path}/model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][7] += torch.finfo(torch.float32).eps * 8
    save_file(weights, f"{run.model.path}/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"^model.path: .* holds other weights than those that the run of .* began with$"):
        changed_since(checkpoint, run)
