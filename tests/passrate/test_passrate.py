"""Pass rates as a user starts it, asking the session's running server; killed, started again, and with wrong input."""

import json
import math
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from megatron_oreal.data.questions import QuestionSet, read_questions
from megatron_oreal.passrate import command as passrate
from megatron_oreal.passrate.measure import Partial, settings
from megatron_oreal.trajectory import Group, Prompt, Verdict
from tests import runs

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_every_line_is_kept_in_order(asking, tmp_path, capsys):
    rows = [{"question": f"What is {i}?", "gold_answer": "7", "level": i} for i in range(5)]
    rows.append({"question": "long " * 200, "gold_answer": "7", "level": 9, "pass_rate": 0.5})
    out = tmp_path / "rated.jsonl"
    assert passrate.main([*asking, f"questions={write(tmp_path / 'in.jsonl', rows)}", f"out={out}", "questions_at_once=2"]) == 0
    assert [r["level"] for r in rows_of(out)] == [0, 1, 2, 3, 4, 9]
    assert [r.get("pass_rate") for r in rows_of(out)] == [0.0] * 5 + [None]
    assert "5 pass rates, 1 questions too long; 0 of 20 answers undecided" in capsys.readouterr().out
    assert not list(tmp_path.glob("rated.jsonl.*"))


def test_rows_of_a_table_are_written_as_lines_that_are_read_as_the_same_questions(asking, tmp_path, capsys):
    folder, out = tmp_path / "set", tmp_path / "rated.jsonl"
    folder.mkdir()
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {i}?"}],
            "reward_model": {"ground_truth": "7"},
            "question_type": "sums",
            "when": datetime(2026, 1, 2),
            "score": math.nan,
            "image": b"\xff",
        }
        for i in range(3)
    ]
    rows[1]["reward_model"] = {"ground_truth": "notfound"}
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), folder / "test.parquet")
    assert passrate.main([*asking, f"questions={folder}", f"out={out}"]) == 0
    said = capsys.readouterr().out
    assert "1 row with no answer (a proof, or none was found), left out" in said and "2 pass rates, 0 questions too long" in said
    first, second, _ = rows_of(out)
    assert first == {**rows[0], "when": "2026-01-02T00:00:00", "score": None, "image": "/w==", "pass_rate": 0.0}
    assert second["reward_model"] == {"ground_truth": "notfound"} and "pass_rate" not in second
    rated, unrated = read_questions(out), read_questions(folder / "train.parquet")
    assert rated == [replace(question, pass_rate=0.0) for question in unrated]


def test_killed_in_the_middle_it_goes_on_from_there(asking, tmp_path, capsys):
    """A line that it was killed in is measured again; another temperature is another measurement."""
    count = 100
    questions = write(tmp_path / "in.jsonl", [{"question": f"What is {i}?", "gold_answer": "7", "id": f"q{i}"} for i in range(count)])
    out, partial = tmp_path / "rated.jsonl", tmp_path / "rated.jsonl.partial"
    answers = tmp_path / "answers.jsonl"
    kept = [f"out={out}", f"answers={answers}"]
    arguments = [*asking, f"questions={questions}", *kept, "rollout.max_new_tokens=60", "rollout.concurrency=2"]
    with runs.start(*arguments, module="megatron_oreal.passrate.command", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") < 21:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read() if process.poll() is not None else "slow"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    partial.write_bytes(partial.read_bytes() + b'{"id": "q29')  # as if it had been killed in the middle of a line
    before = rows_of_partial(partial)
    assert 20 <= len(before) < count
    assert passrate.main([*arguments, "rollout.temperature=0.5"]) == 2
    error = capsys.readouterr().err
    assert (
        "rated.jsonl.partial is of another measurement (rollout.temperature was 1.0, is 0.5); delete it" in error and error.count("\n") == 1
    )
    assert passrate.main(arguments) == 0
    said = capsys.readouterr().out
    assert f"going on: {len(before)} of {count} questions are done" in said and f"step {count}/{count}" in said
    assert [r["id"] for r in rows_of(out)] == [f"q{i}" for i in range(count)]
    assert all(0 <= r["pass_rate"] <= 1 for r in rows_of(out))
    assert [(r["id"], len(r["answers"])) for r in rows_of(answers)] == [(f"q{i}", 4) for i in range(count)]
    assert [r for r in rows_of(answers) if r["id"] in {r["id"] for r in before}] == sorted(before, key=lambda r: int(r["id"][1:]))
    assert not partial.exists()


def rows_of_partial(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]


def test_questions_that_are_done_are_not_asked_again(asking, tmp_path, capsys):
    questions = write(tmp_path / "in.jsonl", [{"question": f"What is {i}?", "gold_answer": "7"} for i in range(3)])
    out = tmp_path / "rated.jsonl"
    config = passrate.COMMAND.load([*asking, f"questions={questions}", f"out={out}"])
    partial = Partial(tmp_path / "rated.jsonl.partial", settings(config, QuestionSet(questions)))
    for name, right in (("1", "+0+-"), ("3", "0000")):  # 0: undecided
        prompt = Prompt(name, "q", "7", [1])
        partial.note(Group(prompt, [], [Verdict(r == "+", "", r != "0", r == "0") for r in right]))
    assert passrate.main([*asking, f"questions={questions}", f"out={out}"]) == 0
    assert [r.get("pass_rate") for r in rows_of(out)] == [2 / 3, 0.0, None]
    said = capsys.readouterr().out
    assert "going on: 2 of 3 questions are done" in said
    assert "2 pass rates, 0 questions too long; 5 of 12 answers undecided, 1 questions without a pass rate for it" in said


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data sets in {DATA}")
def test_the_shared_data_sets_are_read():
    counts = Counter({path.name: len(read_questions(path)) for path in DATA.glob("*.jsonl") if not path.name.startswith("published_")})
    assert len(counts) >= 7 and counts["math500.jsonl"] == 500 and counts["gsm8k_train_2000.jsonl"] == 2000
