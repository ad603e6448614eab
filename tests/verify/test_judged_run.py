"""A run with a judge: its settings reach the driver, its metrics the log; a judge that does not answer ends the run before it begins."""

import json
from pathlib import Path

from megatron_oreal.launcher import free_port
from tests import runs
from tests.verify.test_judge import judge_server

UNFROZEN = ["policy.freeze_steps=0", "policy.optimizer.warmup_steps=1", "token_rm.optimizer.warmup_steps=1"]


def rollout_only(asking: list[str], tmp_path: Path, url: str) -> tuple[int, str]:
    """One step of a model with random weights: no answer of it has a box."""
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps({"question": f"What is {i}?", "gold_answer": "7"}) + "\n" for i in range(4)))
    judge = ["verify=rule_then_judge", f"verify.judge.urls=[{url}]", "verify.judge.model=m", "verify.judge.start_timeout_s=5"]
    overrides = ["experiment=demo", "parallel=auto", "debug=rollout_only", "steps=2", *UNFROZEN]
    overrides += [*asking, *judge, f"data.train={data}", "data.questions_per_step=2", f"run_dir={tmp_path / 'run'}"]
    started = runs.start(*overrides)
    output = runs.finish(started)
    return started.returncode, output


def test_its_metrics_are_those_of_each_step(asking, tmp_path):
    with judge_server("honest") as url:
        status, output = rollout_only(asking, tmp_path, url)
    assert status == 0, output
    rows = runs.metrics_of(tmp_path / "run")
    assert len(rows) == 2
    for row in rows:
        assert 0 <= row["time/verify_tail"] < row["time/rollout"]
        assert row["verify/judge_asked"] == row["verify/undecided"] == row["verify/disagreements"] == 0
        assert row["reward/pass_rate"] == 0  # without a box wrong, without asking


def test_a_judge_that_is_not_there_is_one_line(asking, tmp_path):
    status, output = rollout_only(asking, tmp_path, f"http://127.0.0.1:{free_port()}")
    assert status == 1
    errors = [line for line in output.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "verify.judge.urls: no host answers /v1/models (http://127.0.0.1:" in errors[0]
