"""The demo as a user starts it, in its three-minute form: the same path, no claim on what is learnt."""

import json
import os
import subprocess
from pathlib import Path

from megatron_oreal.data.questions import read_questions

ROOT = Path(__file__).parents[1]


def test_the_demo_runs_from_nothing_to_a_checkpoint(tmp_path):
    work = tmp_path / "demo"
    command = ["bash", "launch/demo.sh", "debug=fast", "seed=3"]
    demo = subprocess.run(command, cwd=ROOT, env={**os.environ, "WORK": str(work)}, capture_output=True, text=True, timeout=600)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    summary = json.loads((work / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["problems_evaluated"] == 64
    assert 0 < summary["pass_at_1_start"] < 1
    assert 0 <= summary["pass_at_1_end"] <= 1
    assert summary["seconds"] > 0
    rated = read_questions(work / "train.jsonl")
    assert len(rated) == 96
    assert len({q.pass_rate for q in rated}) > 1
    steps = [json.loads(line) for line in (work / "metrics.jsonl").open(encoding="utf-8")]
    trained = [s for s in steps if "loss/token_rm" in s]
    assert trained, "no step had a question with a right and a wrong answer"
    assert trained[-1]["policy/version"] >= 1
    assert (work / "hf" / "model.safetensors.index.json").exists()  # that transformers loads it is the demo's own last stage
    assert "pass_at_1_end" in demo.stdout
