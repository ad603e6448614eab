"""What is asked of a pretrained model without training it: pass rates and an evaluation, by their commands."""

import json
from pathlib import Path

import pytest

from tests import runs

pytestmark = pytest.mark.real
ASKED = 6
DEADLINE_S = 600


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_pass_rates_of_all_lines_though_killed_meanwhile(short_answers, questions, tmp_path):
    source, out = questions(ASKED), tmp_path / "rated.jsonl"
    partial = out.with_name("rated.jsonl.partial")
    few = ["rollout.samples=4", "rollout.max_new_tokens=32", "rollout.concurrency=1"]
    command = [*short_answers, *few, f"questions={source}", f"out={out}"]
    killed = runs.start(*command, module="megatron_oreal.passrate.command", start_new_session=True)
    runs.wait_for(killed, lambda: partial.exists() and partial.read_bytes().count(b"\n") > 2, DEADLINE_S)
    runs.kill(killed)
    done = partial.read_bytes().count(b"\n") - 1  # the first line says what is measured
    assert 2 <= done < ASKED and not out.exists()
    again = runs.start(*command, module="megatron_oreal.passrate.command")
    output = runs.finish(again, DEADLINE_S)
    assert again.returncode == 0, output
    assert f"going on: {done} of {ASKED} questions are done" in output
    rows = rows_of(out)
    assert [{k: v for k, v in row.items() if k != "pass_rate"} for row in rows] == rows_of(source)
    assert all(row["pass_rate"] in (0, 0.25, 0.5, 0.75, 1) for row in rows)


def test_an_evaluation_counts_all_its_questions(short_answers, questions, tmp_path, is_tiny):
    command = [*short_answers, f"eval.data={questions(32)}", "eval.max_new_tokens=64", "rollout.max_new_tokens=64", f"run_dir={tmp_path}"]
    run = runs.start(*command, module="megatron_oreal.evaluate")
    output = runs.finish(run, DEADLINE_S)
    assert run.returncode == 0, output
    found = json.loads((tmp_path / "evaluation.json").read_text())
    low, high = found["pass_at_1_interval"]
    assert (found["problems"], found["not_asked"], found["undecided"]) == (32, 0, 0)
    assert 0 <= low <= found["pass_at_1"] <= high < 1 and low < high
    assert 0 < found["length_mean"] <= found["length_p95"] <= 64
    answers = rows_of(tmp_path / "answers.jsonl")[1:]
    assert len({answer["id"] for answer in answers}) == 32
    assert found["pass_at_1"] * 32 == sum(answer["answers"][0]["right"] for answer in answers)
    assert is_tiny or found["incomplete"] < 0.5, "a model that is told to be short says its stop word"
