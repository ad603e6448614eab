"""On GPUs: the cache of engines that share them is sized by what the models leave, and what cannot fit is refused at start."""

from dataclasses import replace

import pytest
import torch

from megatron_oreal import train
from megatron_oreal.config import TrainConfig, load
from megatron_oreal.devices import GIB
from megatron_oreal.doctor.findings import Findings
from megatron_oreal.doctor.memory import check_memory
from megatron_oreal.machine import gpu_memory
from megatron_oreal.model.platform import Platform
from megatron_oreal.plan import start
from megatron_oreal.plan.host.need import Place
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.plan.stages import planned_stages
from megatron_oreal.plan.start import obstacles_on_gpus, rollout_with_cache
from tests.settings import tiny_run

PLACE, HOST = Place(32, 8), 512 * GIB
SHAPE = architecture_of("", "qwen2.5-7b").sizes


def config_of(*overrides: str) -> TrainConfig:
    unsized = ["model.path=M", "data.train=D", "rollout.server_args.max-total-tokens=null"]
    return load(TrainConfig, "train", ["experiment=oreal_7b", *unsized, *overrides])


KEPT = ("schedule=continuous", "rollout.keep_cache=true", "rollout.release_memory=true")


@pytest.mark.parametrize("overrides", [["rollout.release_memory=true"], ["rollout.release_memory=false"], KEPT])
@pytest.mark.parametrize("gib", [79.1, 70.0, 60.0])
def test_a_shared_engines_cache_fills_what_the_models_leave(gib, overrides):
    config, capacity = config_of(*overrides), gib * GIB
    rollout = rollout_with_cache(config, SHAPE, PLACE, capacity)
    stages, engine = planned_stages(replace(config, rollout=rollout), SHAPE, PLACE, capacity)
    asked_at_once = 4 * 16 * 16384 * config.rollout.in_flight
    assert rollout.server_args["max-total-tokens"] == engine.kv_tokens <= asked_at_once
    assert max(max(s.training, s.sampling) for s in stages) <= 0.97 * capacity
    if engine.kv_tokens < asked_at_once:
        assert max(max(s.training, s.sampling) for s in stages) == pytest.approx(0.97 * capacity, rel=1e-3)
    assert not obstacles_on_gpus(config, SHAPE, PLACE, capacity, HOST)


@pytest.mark.parametrize(
    "overrides",
    [["rollout.server_args.max-total-tokens=9"], ["+rollout.server_args.mem-fraction-static=0.3"], ["mode=rollout_only"]],
)
def test_what_the_user_says_of_the_cache_stays(overrides):
    config = config_of(*overrides)
    assert rollout_with_cache(config, SHAPE, PLACE, 80 * GIB) is config.rollout


def test_what_cannot_fit_is_an_obstacle():
    assert "stage 0 needs" in obstacles_on_gpus(config_of(), SHAPE, PLACE, 30 * GIB, HOST)[0].reason
    (few,) = obstacles_on_gpus(config_of(), SHAPE, PLACE, 46.6 * GIB, HOST)
    assert "less than one trajectory" in few.reason
    assert not obstacles_on_gpus(config_of("mode=rollout_only"), SHAPE, PLACE, 30 * GIB, HOST)


def test_what_does_not_fit_a_hosts_memory_is_an_obstacle():
    """Optimizers of 7.6 B parameters of two models are 12 bytes each, a quarter on each of four hosts."""
    config = config_of("policy.optimizer.on_host=true", "token_rm.optimizer.on_host=true")
    assert not obstacles_on_gpus(config, SHAPE, PLACE, 79 * GIB, 100 * GIB)
    (full,) = obstacles_on_gpus(config, SHAPE, PLACE, 79 * GIB, 50 * GIB)
    optimizers = float(full.reason.partition("optimizers ")[2].partition(",")[0])
    assert optimizers == pytest.approx(2 * 12 * 7.4e9 / 4 / GIB, rel=0.05) and full.reason.endswith("and has 50.0")


@pytest.fixture
def one_gpu(monkeypatch):
    """As if there were one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(start, "gpu_memory", lambda: 2 * GIB)


@pytest.mark.usefixtures("one_gpu")
def test_a_run_that_its_gpus_cannot_hold_is_refused_before_anything_is_loaded(capsys, tiny_model, tmp_path):
    given = [f"model.path={tiny_model()}", f"data.train={tmp_path / 'none.jsonl'}", f"run_dir={tmp_path / 'run'}", "model.dtype=bfloat16"]
    capsys.readouterr()  # of making the model
    short = ["rollout.max_total_tokens=60", "rollout.max_new_tokens=30"]
    assert train.main([*given, *short]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: memory: stage 0 needs ") and "plan.gpus=1" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_doctor_says_the_same(monkeypatch, tiny_model):
    monkeypatch.setattr(Platform, "detect", lambda: Platform(torch.device("cuda"), "nccl"))
    for gib, level in ((2.0, "error"), (40.0, "ok")):
        findings = Findings()
        check_memory(findings, tiny_run(tiny_model(), memory_gib=gib), None, 1)
        assert {f.level for f in findings.all} == {level}, findings.all


def test_without_a_driver_no_gpu_has_memory():
    assert gpu_memory("libnone.so") is None and gpu_memory("libc.so.6") is None
