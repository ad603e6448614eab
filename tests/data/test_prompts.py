"""Data files are read strictly; balance and the drawing order are the spec's, and resumable."""

import pytest

from megatron_oreal.data.prompts import PromptSource, fitting
from megatron_oreal.data.questions import Question, balance, read_questions
from megatron_oreal.trajectory import Prompt

GOOD = '{"question": "1+1?", "gold_answer": "2", "pass_rate": 0.5}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "x"}', r":2: field 'gold_answer' must be a non-empty string"),
        ('{"question": " ", "gold_answer": "1"}', r":2: field 'question' must be"),
        ('{"question": "x", "gold_answer": 3}', r":2: field 'gold_answer'"),
        ('{"question": "x", "gold_answer": "3", "pass_rate": 1.5}', r":2: field 'pass_rate' must be a number from 0 to 1"),
        ('{"question": "x", "gold_answer": "3", "pass_rate": true}', r":2: field 'pass_rate'"),
        ('{"question": "x", ', r":2: not JSON"),
        ('["x"]', r":2: a JSON object is wanted, not list"),
        ('{"question": "x", "gold_answer": "3", "id": "1"}', r":2: field 'id': '1' stands there twice"),
    ],
)
def test_a_malformed_line_is_named_with_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "data.jsonl"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(ValueError, match=r"data\.jsonl" + message):
        read_questions(path)


def test_blank_lines_are_no_questions_and_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n" + GOOD + "\n")
    assert read_questions(path) == [Question("2", "1+1?", "2", 0.5)]
    path.write_text("\n")
    with pytest.raises(ValueError, match="no lines"):
        read_questions(path)
    with pytest.raises(ValueError, match="no such file"):
        read_questions(tmp_path / "absent.jsonl")


def test_balance_repeats_by_pass_rate_as_in_the_spec():
    rates = [0.0, 0.1999, 0.2, 0.5, 0.6, 0.79, 0.8, 1.0, None]
    questions = [Question(str(i), "q", "a", r) for i, r in enumerate(rates)]
    kept = balance(questions, [(0.2, 6), (0.4, 4), (0.6, 4), (0.8, 2)])
    assert [sum(k is q for k in kept) for q in questions] == [6, 6, 4, 4, 2, 2, 0, 0, 1]
    assert balance(questions, []) == questions


def test_drawing_passes_every_prompt_once_an_epoch_and_resumes_where_it_stopped():
    prompts = [Prompt(str(i), "q", "a", [i]) for i in range(5)]
    whole = PromptSource(prompts, seed=3).draw(15)
    assert len({p.id for p in whole}) == 15
    for epoch in range(3):
        assert sorted(p.token_ids[0] for p in whole[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert [p.token_ids for p in whole[:5]] != [p.token_ids for p in whole[5:10]]
    assert PromptSource(prompts, seed=3, drawn=7).draw(8) == whole[7:]


def test_a_prompt_that_leaves_no_room_is_left_out():
    prompts = [Prompt(str(n), "q", "a", [1] * n) for n in (3, 4, 5)]
    assert [p.id for p in fitting(prompts, longest=5)] == ["3", "4"]
    with pytest.raises(ValueError, match="no question is left"):
        PromptSource([], seed=0)
