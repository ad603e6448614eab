"""Test sets as they are in the wild, with what tables are made by; folders. How any set is read: tests/data."""

import json
from pathlib import Path

import pytest

from megatron_oreal.config import EvaluateConfig, TrainConfig, load
from megatron_oreal.evaluation.sets import read_problems

DATA = Path(__file__).parents[3] / "shared" / "data"
IN_THE_WILD = {  # a row of each, as published (texts shortened) -> question, gold answer, id, subject, level
    "MATH-500": (
        {"problem": "P", "solution": r"so \boxed{3}", "answer": "3", "subject": "Algebra", "level": 2, "unique_id": "test/algebra/1.json"},
        ("P", "3", "test/algebra/1.json", "Algebra", "2"),
    ),
    "MATH": (
        {"problem": "P", "level": "Level 5", "type": "Geometry", "solution": r"\boxed{1}, so \boxed{\frac{1}{2}}"},
        ("P", r"\frac{1}{2}", "1", "Geometry", "5"),
    ),
    "GSM8K": ({"question": "P", "answer": "16 - 3 = <<16-3=13>>13\n#### 1,042"}, ("P", "1,042", "1", None, None)),
    "AIME 2024": ({"ID": "2024-II-4", "Problem": "P", "Solution": "s", "Answer": 33}, ("P", "33", "2024-II-4", None, None)),
    "AIME 2025": ({"id": "0", "problem": "P", "answer": "70"}, ("P", "70", "0", None, None)),
    "AMC": ({"id": 0, "problem": "P", "answer": 142.0, "url": "u"}, ("P", "142", "0", None, None)),
    "OlympiadBench": (
        {
            "id": 2231,
            "question": "P",
            "solution": ["s"],
            "final_answer": ["2", "$-1$"],
            "subfield": "Algebra",
            "subject": "Math",
            "difficulty": "Competition",
        },
        ("P", "2, $-1$", "2231", "Algebra", "Competition"),
    ),
}


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", IN_THE_WILD)
def test_published_sets_are_read_as_they_are(tmp_path, name):
    row, expected = IN_THE_WILD[name]
    (problem,) = read_problems(write(tmp_path / "test.jsonl", row))
    q = problem.question
    assert (q.question, q.gold_answer, q.id, problem.subject, problem.level) == expected


def test_what_tables_are_made_by_is_a_text_or_a_number_under_a_known_name_or_a_given_one(tmp_path):
    path = write(tmp_path / "set.jsonl", {"problem": "P", "answer": "1", "level": [1], "hard": 3})
    with pytest.raises(ValueError, match=r"set.jsonl:1: field 'level' must be a string or a number, not \[1\]"):
        read_problems(path)
    (problem,) = read_problems(path, fields={"level": "hard"})
    assert problem.level == "3"


def test_folders_are_read_by_split(tmp_path):
    row = {"question": "P", "answer": "1"}
    hub = tmp_path / "hub"
    write(hub / "data" / "train-00000-of-00001.jsonl", row)
    first = write(hub / "data" / "test-00000-of-00002.jsonl", row, row)  # a test set is taken as it is, repeats and all
    write(hub / "data" / "test-00001-of-00002.jsonl", row | {"id": f"{first.stem}:1"})
    with pytest.raises(ValueError, match=r"data/test-00001-of-00002.jsonl:1: field 'id': 'test-00000-of-00002:1' stands there twice"):
        read_problems(hub)
    write(hub / "data" / "test-00001-of-00002.jsonl", row | {"id": "third"})
    assert [p.question.id for p in read_problems(hub)] == [f"{first.stem}:1", f"{first.stem}:2", "third"]  # test, where nothing is said
    assert len(read_problems(hub, "train")) == 1
    with pytest.raises(ValueError, match="holds test, train; name one as `split`"):
        read_problems(hub, "validation")
    write(hub / "socratic" / "test.jsonl", row)
    with pytest.raises(ValueError, match=r"split 'test' is in several folders \(data, socratic\)"):
        read_problems(hub)
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        read_problems(tmp_path / "nowhere")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data sets in {DATA}")
def test_real_sets_are_read():
    sets = {name: read_problems(DATA / f"{name}.jsonl") for name in ("math500", "aime24", "amc23", "olympiadbench", "gsm8k_test")}
    assert [len(problems) for problems in sets.values()] == [500, 30, 40, 674, 1319]
    assert {p.level for p in sets["math500"]} == set("12345") and len({p.subject for p in sets["math500"]}) == 7


def test_sets_are_configured_together_and_one_by_one():
    given = ["model.path=M", "eval.samples=8", "eval.k=[2,8]", "eval.data=x/math500.jsonl", "+eval.sets.amc=A"]
    sets = load(EvaluateConfig, "evaluate", [*given, "+eval.sets.aime.data=B", "+eval.sets.aime.samples=64"]).eval.resolved()
    assert list(sets) == ["math500", "amc", "aime"]
    assert [(s.samples, s.k, s.temperature) for s in sets.values()] == [(8, [2, 8], 0.6), (8, [2, 8], 0.6), (64, [2, 8], 0.6)]
    assert load(EvaluateConfig, "evaluate", ["model.path=M", "eval.data=E.jsonl"]).eval.resolved()["E"].k == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+eval.sets.a.data=A", "+eval.sets.a.sampels=4"], "unknown key eval.sets.a.sampels"),
        (["+eval.sets.a.split=test"], "eval.sets.a.data is missing"),
        (["eval.data=a.jsonl", "eval.samples=4", "eval.k=[8]"], "eval.k=[8]: each must lie between 1 and samples=4"),
        (["eval.data=a.jsonl", "+eval.sets.a=b"], "eval.sets.a: eval.data has the same name"),
        (["+eval.sets.a.data=A", "+eval.sets.a.temperature=0", "+eval.sets.a.samples=2"], "eval.sets.a.temperature=0"),
        (["+eval.sets.validation=A"], "eval.sets.validation: the name is that of the questions held out"),
        (["eval.patience=2"], "eval.patience needs a validation set"),
    ],
)
def test_wrong_settings_are_one_line(overrides, message):
    with pytest.raises(ValueError) as error:
        load(TrainConfig, "train", ["model.path=M", "data.train=D", *overrides])
    assert message in str(error.value) and "\n" not in str(error.value)
