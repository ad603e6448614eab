"""Whole runs, in processes of their own."""

import json
import subprocess
from pathlib import Path

from megatron_oreal import launcher

ROOT = Path(__file__).parents[1]
RUN_DEADLINE_S = 400


def start(*overrides: str, module: str = "megatron_oreal.train", **options) -> subprocess.Popen:
    """Output and errors come through one pipe; `options` are Popen's."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return launcher.start_module(module, overrides, cwd=ROOT, **pipe | options)


def finish(run: subprocess.Popen) -> str:
    """What it said, once it has ended."""
    output, _ = run.communicate(timeout=RUN_DEADLINE_S)
    return output


def metrics_of(run_dir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl so far."""
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
