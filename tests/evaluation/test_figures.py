"""Answers in, figures out, with votes counted by the real rule check."""

import pytest

from megatron_oreal.data.questions import Question
from megatron_oreal.evaluation.answers import Answer, Answered
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.evaluation.figures import metrics, report, scores
from megatron_oreal.evaluation.saved_rows import SavedRows
from megatron_oreal.evaluation.sets import Problem, ProblemSet
from megatron_oreal.evaluation.votes import groups
from megatron_oreal.verify import Verifier
from tests.settings import verify_config

SET = ProblemSet(
    "s",
    [
        Problem(Question("a", "q", "1/2"), "Algebra", "1"),
        Problem(Question("b", "q", "3"), "Algebra", "2"),
        Problem(Question("c", "q", "3"), None, "10"),  # too long to ask
    ],
    EvalSet("", samples=4, temperature=1.0, top_p=1.0, k=[1, 2]),
)


@pytest.fixture(scope="module")
def verifier():
    with Verifier(verify_config(workers=1)) as one:
        yield one


def answers(*given: tuple[str, str]) -> list[Answer]:
    """(final answer, "+" right, "-" wrong, "?" undecided, "x" cut), lengths 10, 20, ..."""
    made = []
    for number, (final, mark) in enumerate(given, 1):
        made.append(Answer(mark == "+", mark != "?", mark != "x", 10 * number, final or None))
    return made


def known() -> dict:
    a = answers(("0.5", "+"), (r"\frac{1}{2}", "+"), ("2", "-"), ("", "x"))
    b = answers(("4", "-"), ("3", "+"), ("weird", "?"), ("", "-"))
    rows = [
        Answered("s", "a", "greedy", answers(("0.5", "+"))),
        Answered("s", "b", "greedy", answers(("4", "-"))),
        Answered("s", "a", "sampled", a),
        Answered("s", "b", "sampled", b),
    ]
    return {row.key: row for row in rows}


def test_equal_answers_vote_together_whatever_they_look_like(verifier):
    given = ["0.5", "1", r"\frac12", "1.0", r"\dfrac{2}{4}", "x+1", "1+x", "0.5", r"\int_0^1 \sin(x^x) dx"]
    assert groups(given, verifier.compare) == [[0, 7, 2, 4], [1, 3], [5, 6], [8]]
    assert groups([], verifier.compare) == []


def test_figures_of_a_set_and_its_parts(verifier):
    found = report(SET, known(), verifier.compare)
    whole, sampled = found.all, found.all.sampled
    assert (whole.problems, whole.not_asked, whole.pass_at_1, whole.length_mean) == (3, 1, pytest.approx(1 / 3), 10)
    assert sampled.average.value == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert sampled.pass_at[1].value == pytest.approx(sampled.average.value)
    assert sampled.pass_at[2].value == pytest.approx(((1 - 1 / 6) + (1 - 3 / 6) + 0) / 3)
    assert sampled.majority.value == pytest.approx((1 + 1 / 2 + 0) / 3)  # two votes for 1/2; 4 against 3; none
    assert (sampled.incomplete, sampled.undecided) == (1 / 8, 1)
    assert (sampled.length_mean, sampled.length_median, sampled.length_p95) == (25, 25, 40)
    assert list(found.by_level) == ["1", "2", "10"] and list(found.by_subject) == ["Algebra", "-"]
    assert found.by_subject["Algebra"].pass_at_1 == 0.5 and found.by_level["10"].not_asked == 1
    assert scores(SET, known()) == [0.5, 0.25, 0.0]
    named = metrics("s", whole)
    assert named["eval/s/avg_at_4"] == sampled.average.value and named["eval/s/pass_at_2"] == sampled.pass_at[2].value
    assert named["eval/s/pass_at_1"] == whole.pass_at_1 and named["eval/s/majority_at_4"] == sampled.majority.value


def test_rows_are_kept_and_a_foreign_or_damaged_file_is_one_line(tmp_path):
    path, rows = tmp_path / "rows.jsonl", list(known().values())
    kept = SavedRows(path, {"model": "m"}, Answered, "run_dir")
    assert [kept.add(row, texts=["lone surrogate \ud800"]) for row in (rows[0], rows[1], rows[0])] == [True, True, False]
    kept.close()
    again = SavedRows(path, {"model": "m"}, Answered, "run_dir")
    assert list(again.rows.values()) == rows[:2]
    again.close()
    with pytest.raises(ValueError, match=r"run_dir: .*rows.jsonl is of another measurement \(model was 'm', is 'n'; seed was None, is 1\)"):
        SavedRows(path, {"model": "n", "seed": 1}, Answered, "run_dir")
    path.write_text(path.read_text().replace('"greedy"', "greedy", 1))
    with pytest.raises(ValueError, match=r"rows.jsonl:2: .*; delete the file to start again"):
        SavedRows(path, {"model": "m"}, Answered, "run_dir")
