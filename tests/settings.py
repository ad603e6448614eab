"""What tests configure: the sections of conf/train.yaml with single keys changed, and a run on tiny models without the driver."""

import os
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.learn.config import CheckpointConfig, OptimizerConfig, ParallelConfig, PolicyConfig, TokenRMConfig
from megatron_oreal.model.config import ComputeConfig, ModelConfig
from megatron_oreal.monitor.config import MLflowConfig, MonitorConfig, ProfileConfig, WandbConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.verify.config import JudgeConfig, VerifyConfig


@cache
def shipped() -> TrainConfig:
    """conf/train.yaml as it stands: the one source of defaults."""
    return load(TrainConfig, "train", ["model.path=unused", "data.train=unused"])


def parallel_config(**changes) -> ParallelConfig:
    return replace(shipped().parallel, **changes)


def compute_config(**changes) -> ComputeConfig:
    return replace(shipped().compute, **changes)


def rollout_config(**changes) -> RolloutConfig:
    return replace(shipped().rollout, **changes)


def verify_config(**changes) -> VerifyConfig:
    return replace(shipped().verify, **changes)


def judge_config(**changes) -> JudgeConfig:
    return replace(shipped().verify.judge, **changes)


def policy_config(**changes) -> PolicyConfig:
    return replace(shipped().policy, **changes)


def optimizer_config(**changes) -> OptimizerConfig:
    return replace(shipped().policy.optimizer, **changes)


def checkpoint_config(**changes) -> CheckpointConfig:
    return replace(shipped().checkpoint, **changes)


def monitor_config(**changes) -> MonitorConfig:
    return replace(shipped().monitor, **changes)


def wandb_config(**changes) -> WandbConfig:
    return replace(shipped().monitor.wandb, **changes)


def mlflow_config(**changes) -> MLflowConfig:
    return replace(shipped().monitor.mlflow, **changes)


def profile_config(**changes) -> ProfileConfig:
    return replace(shipped().profile, **changes)


def optimizer(lr: float = 3e-3, **changes) -> OptimizerConfig:
    """A large eps: with 1e-8 Adam turns the rounding noise of gradients near zero into steps of the size of lr."""
    return optimizer_config(**{"lr": lr, "min_lr": lr / 10, "warmup_steps": 2, "eps": 1e-3, **changes})


def tiny_run(path: str, parallel: dict | None = None, **changes) -> TrainConfig:
    """Sequences of up to 60 tokens, several micro-batches a step; `changes` are fields of TrainConfig."""
    tiny = {
        "run_dir": tempfile.gettempdir(),
        "seed": 1,
        "steps": 5,
        "model": ModelConfig(path, "float32"),
        "parallel": parallel_config(**(parallel or {})),
        "data": replace(shipped().data, system_prompt="", balance=[]),
        "rollout": rollout_config(max_new_tokens=30, max_total_tokens=60),
        "objective": Objective(beta=0.1),
        "policy": policy_config(optimizer=optimizer(), freeze_steps=1),
        "token_rm": TokenRMConfig(optimizer(lr=2e-2)),
        "learn": replace(shipped().learn, tokens_per_micro_batch=64),
    }
    return replace(shipped(), **tiny | changes)


def engines_at(*endpoints: Endpoint, **changes) -> Engines:
    """Running servers, in service."""
    config = rollout_config(**{"placement": "external", "urls": [e.url for e in endpoints], **changes})
    engines = Engines(config, Path("unused"), endpoints)
    engines.put_in_service(list(endpoints))
    return engines


def process_group_of(endpoint: Endpoint) -> int:
    """Of the engine on this host that listens there: launcher, scheduler, detokenizer."""
    wanted = ["--port", str(urlsplit(endpoint.url).port)]
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(words[i : i + 2] == wanted for i in range(len(words))):
            return os.getpgid(process.pid)
    raise AssertionError(f"nobody listens at {endpoint.url}")


def write_hf(chunks, models, run_dir, ranks, timeout_s: float) -> None:
    """The final export, <run_dir>/hf, of models without a run. Collective."""
    from megatron_oreal.learn.export import HFExports

    export = HFExports(run_dir, checkpoint_config(timeout_s=timeout_s), models, ranks)
    export.begin(chunks)
    export.finish()
