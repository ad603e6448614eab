"""The evaluator and the pass-rate tool as commands, asking the session's running server."""

import importlib.util
import json
from pathlib import Path

import pytest

from megatron_oreal import evaluate

PASSRATE = Path(__file__).parents[1] / "tools" / "passrate.py"


@pytest.fixture
def asking(server, served_model, tmp_path):
    """Overrides that point a command at the session's server."""
    key = tmp_path / "key"
    key.write_text(server.endpoint.key + "\n")
    return [
        f"model.path={served_model}",
        "model.dtype=float32",
        "rollout.placement=external",
        f"rollout.urls=[{server.endpoint.url}]",
        f"rollout.admin_key_file={key}",
        "rollout.max_total_tokens=120",
        "rollout.max_new_tokens=16",
        "rollout.samples=4",
        "verify.workers=1",
    ]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"What is {i}?", "gold_answer": "7", "level": i} for i in range(5)]
    rows.append({"question": "long " * 200, "gold_answer": "7", "level": 9})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_evaluation_counts_every_problem(asking, questions, tmp_path, capsys):
    overrides = [*asking, f"eval.data={questions}", "eval.max_new_tokens=16", f"run_dir={tmp_path / 'run'}"]
    assert evaluate.main(overrides) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["problems"], result["not_asked"], result["pass_at_1"]) == (6, 1, 0.0)
    assert 0 < result["length_mean"] <= 16
    assert "pass@1 0.0% of 6 problems" in capsys.readouterr().out


def test_pass_rates_keep_every_line_in_order(asking, questions, tmp_path):
    spec = importlib.util.spec_from_file_location("passrate", PASSRATE)
    passrate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(passrate)
    out = tmp_path / "rated.jsonl"
    assert passrate.main([*asking, f"questions={questions}", f"out={out}"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["level"] for r in rows] == [0, 1, 2, 3, 4, 9]
    assert [r.get("pass_rate") for r in rows] == [0.0] * 5 + [None]


def test_a_server_that_is_not_there_is_one_line(asking, questions, capsys, tmp_path):
    overrides = [
        *asking,
        f"eval.data={questions}",
        "rollout.urls=[http://127.0.0.1:9]",
        "rollout.ready_timeout_s=0.1",
        f"run_dir={tmp_path}",
    ]
    capsys.readouterr()
    assert evaluate.main(overrides) == 1
    error = capsys.readouterr().err
    assert "rollout.urls: http://127.0.0.1:9 does not answer /health" in error
    assert error.count("\n") == 1
