"""Rejection sampling: of verified answers to a supervised set that `sft` reads."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_oreal.config import SelectConfig, SftConfig, load
from megatron_oreal.coordinator.supervised import read_supervised
from megatron_oreal.passrate import command as passrate
from megatron_oreal.passrate import select as command
from megatron_oreal.passrate.rejection import select

SHIPPED = load(SelectConfig, "select", ["answers=A", "out=O"])
LENGTHS = {"aa": 2, "bbbb": 4, "c": 1, "dddddd": 6, "eeeee": 5}


def answer(text: str, right: bool = True, decided: bool = True) -> dict:
    return {"text": text, "tokens": len(text), "right": right, "decided": decided, "reason": ""}


def asked(name: str, *answers: dict) -> dict:
    return {"id": name, "question": f"Question {name}?", "gold_answer": "7", "pass_rate": 0.5, "undecided": 0, "answers": list(answers)}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chosen(tmp_path: Path, rows: list[dict], **changes) -> tuple[list[tuple[str, str]], str]:
    answers, out = write(tmp_path / "answers.jsonl", rows), tmp_path / "sft.jsonl"
    said = select(replace(SHIPPED, answers=str(answers), out=str(out), **changes))
    read = [json.loads(line) for line in out.open(encoding="utf-8")]
    return [(row["question_id"], row["response"]) for row in read], "\n".join(said)


def test_each_way_of_choosing_takes_right_answers_of_its_kind(tmp_path):
    rows = [asked("q", *map(answer, LENGTHS))]

    def lengths(**changes) -> list[int]:
        return sorted(len(text) for _, text in chosen(tmp_path, rows, **changes)[0])

    assert lengths() == [1] and lengths(per_question=3) == [1, 2, 4] and lengths(per_question=9) == [1, 2, 4, 5, 6]
    assert lengths(by="nearest", length=5) == [5] and lengths(by="nearest", length=100, per_question=2) == [5, 6]
    assert lengths(longest=2, per_question=9) == [1, 2]
    drawn = Counter(lengths(by="random", seed=seed)[0] for seed in range(60))
    assert set(drawn) == set(LENGTHS.values()) and max(drawn.values()) < 30
    assert lengths(by="random", seed=1, per_question=2) == lengths(by="random", seed=1, per_question=2)


@pytest.mark.parametrize("by", [{"by": "shortest"}, {"by": "random"}, {"by": "nearest", "length": 3}])
def test_what_is_chosen_does_not_depend_on_the_order_in_the_file(tmp_path, by):
    rows = [asked(name, *map(answer, LENGTHS)) for name in "abcd"]
    backwards = [row | {"answers": row["answers"][::-1]} for row in rows[::-1]]
    one, other = (sorted(chosen(tmp_path, some, per_question=2, **by)[0]) for some in (rows, backwards))
    assert one == other and len(one) == 8


def test_everything_that_is_left_out_is_counted(tmp_path):
    rows = [
        asked("a", answer("x"), answer(" x\n"), answer("wrong", right=False), answer("long answer")),
        asked("b", answer("y", right=False), answer("z", right=True, decided=False)),
        asked("a", answer("x"), answer("other")),  # the same question again: one question
    ]
    found, said = chosen(tmp_path, rows, longest=5)
    assert found == [("a", "x")]
    assert "1 responses to 1 of 2 questions" in said and "1 questions, none of whose answers can be taken" in said
    for count in ("2 the same as another", "2 wrong", "1 undecided", "1 of more than longest=5 tokens", "1 beyond per_question=1"):
        assert count in said, said
    assert sum(len(row["answers"]) for row in rows) == 1 + 2 + 2 + 1 + 1 + 1


@pytest.mark.parametrize(
    ("content", "overrides", "said"),
    [
        ('{"id": "a", "question": "q"}\n', [], "answers.jsonl:1: no question with its answers (Object missing required field"),
        ("", [], "nothing to train on in 0 questions (no answers at all)"),
        (None, [], "answers.jsonl cannot be read (FileNotFoundError: No such file or directory)"),
        ("", ["by=longest"], "by='longest' is not one of shortest, nearest, random"),
        ("", ["by=nearest"], "length=None is given if and only if by=nearest"),
        ("", ["per_question=0"], "per_question=0 must be at least 1"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, content, overrides, said):
    answers, out = tmp_path / "answers.jsonl", tmp_path / "sft.jsonl"
    if content is not None:
        answers.write_text(content)
    assert command.main([f"answers={answers}", f"out={out}", *overrides]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not out.exists()


def test_a_place_that_cannot_be_written_to_is_one_line_before_anything_is_sampled(asking, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "answers.jsonl"
    questions = write(tmp_path / "in.jsonl", [{"question": "What is 1?", "gold_answer": "1"}])
    capsys.readouterr()
    assert passrate.main([*asking, f"questions={questions}", f"out={tmp_path / 'rated.jsonl'}", f"answers={place}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: answers: {tmp_path / 'file'}") and "cannot be written" in error and error.count("\n") == 1
    answers = write(tmp_path / "answers.jsonl", [asked("q", answer("x"))])
    assert command.main([f"answers={answers}", f"out={place}"]) == 1
    assert capsys.readouterr().err.startswith(f"error: out: {tmp_path / 'file'}")


def test_answers_that_passrate_wrote_become_examples_that_sft_reads(asking, served_model, tmp_path, capsys):
    """The model has random weights, so its answers are made right here; an earlier start's questions are among them."""
    questions = write(tmp_path / "in.jsonl", [{"question": f"What is {i}?", "gold_answer": "7", "id": f"q{i}"} for i in range(5)])
    answers, out = tmp_path / "deep" / "answers.jsonl", tmp_path / "rated.jsonl"
    assert passrate.main([*asking, f"questions={questions}", f"out={out}", f"answers={answers}", "rollout.concurrency=2"]) == 0
    rows = [json.loads(line) for line in answers.open(encoding="utf-8")]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(5)]  # in the order of the questions, not of their ends
    assert all(len(row["answers"]) == 4 and all(0 < one["tokens"] <= 16 for one in row["answers"]) for row in rows)
    rates = [json.loads(line)["pass_rate"] for line in out.open(encoding="utf-8")]
    assert rates == [row["pass_rate"] for row in rows] == [0.0] * 5 and not list(tmp_path.glob("rated.jsonl.*"))
    for row in rows:
        row["answers"][1] |= {"right": True, "text": f"It is \\boxed{{{row['id']}}}."}
    found, _ = chosen(tmp_path, rows)
    assert found == [(f"q{i}", f"It is \\boxed{{q{i}}}.") for i in range(5)]
    given = [f"model.path={served_model}", f"data.train={tmp_path / 'sft.jsonl'}", "eval.validation=1"]
    assert len(read_supervised(load(SftConfig, "sft", given)).samples) == 4
