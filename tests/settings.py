"""The settings of a run on tiny models, for tests that train without the driver."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from megatron_oreal import config
from megatron_oreal.engines.engines import Engines
from megatron_oreal.engines.server import Endpoint
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.config import RolloutConfig


def optimizer(lr: float = 3e-3, **changes) -> config.OptimizerConfig:
    """A large eps: with 1e-8 Adam turns the rounding noise of gradients near zero into steps of the size of lr."""
    return config.OptimizerConfig(**{"lr": lr, "min_lr": lr / 10, "warmup_steps": 2, "eps": 1e-3, **changes})


def tiny_run(path: str, parallel: dict | None = None, **changes) -> config.TrainConfig:
    """Sequences of up to 60 tokens, several micro-batches a step; `changes` are fields of TrainConfig."""
    return config.TrainConfig(
        **{
            "run_dir": "unused",
            "seed": 1,
            "steps": 5,
            "model": config.ModelConfig(path, "float32"),
            "parallel": config.ParallelConfig(**(parallel or {})),
            "compute": config.ComputeConfig(),
            "data": config.DataConfig("unused"),
            "rollout": RolloutConfig(max_new_tokens=30, max_total_tokens=60),
            "verify": config.VerifyConfig(),
            "objective": Objective(beta=0.1),
            "policy": config.PolicyConfig(optimizer(), freeze_steps=1),
            "token_rm": config.TokenRMConfig(optimizer(lr=2e-2)),
            "learn": config.LearnConfig(tokens_per_micro_batch=64),
            "eval": config.EvalConfig(),
            "checkpoint": config.CheckpointConfig(),
            **changes,
        }
    )


def engines_at(*endpoints: Endpoint, **changes) -> Engines:
    """Running servers, in service."""
    settings = RolloutConfig(**{"placement": "external", "urls": [e.url for e in endpoints], **changes})
    engines = Engines(settings, Path("unused"), endpoints)
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
