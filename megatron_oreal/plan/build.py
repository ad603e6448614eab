"""Every pipeline stage of a run's real Megatron models, built in a process of its own without memory, GPU or other ranks (fake_ranks)."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from megatron_oreal.model.config import Layout

ROOT = Path(__file__).resolve().parents[2]
Role = Literal["policy", "token_rm", "reference"]


class BuildFailed(RuntimeError):
    """The build did not end well; one line."""


@dataclass(frozen=True)
class Request:
    """What is to be built."""

    hf: dict[str, Any]  # fields of a transformers config
    parallel: Layout
    recompute: str
    dtype: str
    gpus: int  # ranks of the job
    tokens: int  # of a micro-batch, over all context-parallel ranks
    micro_batches: int  # of a step, a rank; no more are run than the peak needs
    roles: tuple[Role, ...]
    logprobs: str  # "chunked" or "fused"


@dataclass(frozen=True)
class Built:
    """One model at one pipeline stage. Bytes are those of one rank."""

    role: Role
    stage: int
    parameters: int  # number
    weights: int
    gradients: int
    optimizer: int  # master weights and Adam's moments
    activations: int  # the most that lives besides while micro-batches go through, workspace of the log-probabilities included
    on_host: int = 0  # of host memory: master weights and moments that are there for good (optimizer.on_host)
    saved: int = 12  # of a parameter, in a checkpoint, by its optimizer: weight and both moments, in float32 (learn.live_state)

    @property
    def whole(self) -> int:
        """While it works, activations apart."""
        return self.weights + self.gradients + self.optimizer

    def given_up(self, offload: str) -> int:
        """Of that, between its turns, by compute.offload (learn.host_memory)."""
        if offload == "all":
            return self.whole - self.weights * (self.role == "policy")
        return self.gradients * (offload == "gradients")


def build(request: Request, deadline_s: float) -> list[Built]:
    """All roles at all stages.

    Raises:
        BuildFailed: it failed, or took longer than the deadline.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD_SIZE"))}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "megatron_oreal.plan.fake_ranks"]
    asked = msgspec.json.encode(request)
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=deadline_s, cwd=ROOT, env=environment)
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"plan: building the model's stages took longer than plan.deadline_s={deadline_s:.0f}") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise BuildFailed(f"plan: building the model's stages failed with status {done.returncode}: {' '.join(last)[:300]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Built])
