"""What cannot be read is one line with file, line (or row) and field, in training as in evaluation. Large files are not held."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from megatron_oreal.data.json_rows import MAX_DIGITS, MAX_NESTING
from megatron_oreal.data.questions import QuestionSet, Remarks, read_questions
from megatron_oreal.evaluation.sets import read_problems

GOOD = b'{"question": "1+1?", "gold_answer": "2", "pass_rate": 0.5}\n'
DEEP = b"[" * 100_000
LINES = {
    b'{"question": "x"}': "field 'gold_answer' is missing (looked for gold_answer, final_answer, reward_model.ground_truth, answer,",
    b'{"gold_answer": "1"}': "field 'question' is missing (looked for question, problem, Problem, Question, prompt; `fields.question`",
    b'{"question": " ", "gold_answer": "1"}': "field 'question' must be a non-empty string, not ' '",
    b'{"problem": 7, "gold_answer": "1"}': "field 'problem' must be a non-empty string, not 7",
    b'{"question": "x", "answer": true}': "field 'answer' must be an answer, not True",
    b'{"question": "x", "answer": ["1", "2"]}': "field 'answer' must be an answer, not ['1', '2']",
    b'{"question": "x", "answer": {"a": 1}}': "field 'answer' must be an answer, not {'a': 1}",
    b'{"question": "x", "answer": "nan"}': "field 'answer' must be an answer, not 'nan'",
    b'{"question": "x", "answer": "... #### "}': "field 'answer' must be an answer",
    b'{"question": "x", "answer": "so <<1+1=2>>2"}': "field 'answer' is a solution of GSM8K's without its ####",
    b'{"question": "x", "answer": "%s"}'
    % (b"1" * 1_000_000): "field 'answer': an answer of 1,000,000 characters, which nothing ever equals",
    b'{"question": "x", "solution": "no box"}': "field 'solution' is the only answer there is, and has no \\boxed",
    b'{"question": "x", "answer": NaN}': "field 'answer': NaN is no number that JSON has",
    b'{"question": "x", "answer": -Infinity}': "field 'answer': -Infinity is no number that JSON has",
    b'{"question": "x", "answer": 1e999}': "field 'answer': 1e999 is larger than any float",
    b'{"question": "x", "answer": %s}' % (b"1" * 1_000_000): "field 'answer': a number of 1,000,000 digits",
    b'{"question": "x", "answer": "1", "info": {"n": [0.%s]}}' % (b"1" * 9_998): "field 'info.n': a number of 10,000 digits",
    b'{"question": "x", "answer": "1", "answer": "2"}': "field 'answer': stands there twice",
    b'{"question": "x", "answer": "1", "pass_rate": 1.5}': "field 'pass_rate' must be a number from 0 to 1, not 1.5",
    b'{"question": "x", "answer": "1", "pass_rate": true}': "field 'pass_rate' must be a number from 0 to 1, not True",
    b'{"question": "x", "answer": "1", "id": [1]}': "field 'id' must be a string or a number, not [1]",
    b'{"question": "x", "answer": "1", "id": "1"}': "field 'id': '1' stands there twice",
    b'{"question": "caf\xe9", "answer": "1"}': "field 'question': byte 0xE9 is not UTF-8",
    b'{"question": "x", "answer": "1", "info": {"\xff": 1}}': "field 'info.\\udcff': byte 0xFF is not UTF-8",
    b'{"question": "a \\ud83d b", "answer": "1"}': "field 'question': \\ud83d is half of a surrogate pair",
    b'{"question": "x", "answer": "\xed\xa0\xbd"}': "field 'answer': byte 0xED is not UTF-8",
    b'{"question": "x", "answer": ' + DEEP: "field 'answer': lists and objects nested deeper than 100",
    b'{"question": "x", "answer": "1", "info": %s1%s}' % (DEEP[:200], b"]" * 200): "field 'info': lists and objects nested deeper than 100",
    b'{"question": "x", "answer": "1", "info": ' + b'{"a": ' * 100_000: "field 'info': lists and objects nested deeper than 100",
    b'{"prompt": [], "answer": "1"}': "field 'prompt' must be one user message, with a system message before it or alone, not []",
    b'{"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "label": 1}': "not ['user', 'assistant']",
    b'{"prompt": [{"role": "user", "content": [{"type": "image"}]}], "label": 1}': "field 'prompt' must be a non-empty string, not [{'",
    b'{"prompt": "[{\\"role\\": \\"user\\", \\"content\\": \\"x\\"}]", "label": 1}': "field 'prompt' is a chat written as a text",
    b'{"prompt": ["x"], "answer": "1"}': "field 'prompt' must be one user message, with a system message before it or alone, not ['x']",
    b'{"question": "x", ': "not JSON (Expecting property name enclosed in double quotes at column 18)",
    b'{"question": "x"} {}': "not JSON (Extra data at column 18)",
    b'["x"]': "a JSON object is wanted, not list",
}


def error_of(read, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        read(path)
    return str(error.value)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60].decode(errors="replace"))
def test_a_malformed_line_is_named_with_file_line_and_field(tmp_path, line):
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD)
    said = error_of(read_questions, path)
    assert said.startswith(f"{path}:2: ") and LINES[line] in said and "\n" not in said and len(said) < 400
    assert error_of(read_problems, path) == said
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert error_of(read_questions, tmp_path / "data.jsonl.gz") == said.replace("data.jsonl", "data.jsonl.gz")


def test_files_that_are_no_questions_at_all(tmp_path):
    cases = {
        "a.jsonl": (b"\n \n", "no lines"),
        "b.json": (b" []", "no lines"),
        "c.json": (b'[{"question": "x", "answer": 1} {}]', ":1: not JSON (no comma, and no ] after this object)"),
        "d.json": (
            b'[{"question": "x", "answer": 1},\n {"question": "y", "answer":}]',
            ":2: not JSON (Expecting value at line 2, column 29)",
        ),
        "e.json": (b'[{"question": "x", "answer": 1}] 5', ":1: not JSON (more follows after the array)"),
        "f.json": (b'[{"question": "x", "answer": 1}', ":1: not JSON (no comma, and no ] after this object)"),
        "g.jsonl": (("\ufeff" + GOOD.decode()).encode("utf-16"), "UTF-16, not UTF-8"),
        "h.jsonl.gz": (gzip.compress(GOOD * 1000)[:60], "cannot be read (Compressed file ended"),
        "i.jsonl.gz": (GOOD, "cannot be read (Not a gzipped file"),
        "j.txt": (GOOD, "files are read, and folders of them"),
        "k.parquet": (b"PAR1 no", "cannot be read"),
        "l.arrow": (b"ARROW1 no", "cannot be read"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        said = error_of(read_questions, path)
        assert said.startswith(str(path)) and message in said and "\n" not in said, said
    assert "absent.jsonl: no such file" in error_of(read_questions, tmp_path / "absent.jsonl")


def test_blank_lines_are_no_questions_and_a_byte_order_mark_is_no_part_of_one(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + GOOD + b"\r\n")
    assert [(q.id, q.question) for q in read_questions(path)] == [("2", "1+1?")]


def invalid(text: bytes) -> pyarrow.Array:
    """A column of strings, the second of which is these bytes."""
    offsets = pyarrow.array([0, 1, 1 + len(text)], pyarrow.int32())
    return pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets.buffers()[1], pyarrow.py_buffer(b"x" + text)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["x", "y"], "answer": [1.5, float("nan")]}, "field 'answer' must be an answer, not nan"),
        ({"question": ["x", "y"], "answer": [1.5, float("inf")]}, "field 'answer' must be an answer, not inf"),
        ({"question": ["x", None], "answer": ["1", "2"]}, "field 'question' is missing"),
        ({"question": ["x", "y"], "answer": [True, False]}, "field 'answer' must be an answer, not True"),
        ({"question": ["x", "y"], "answer": ["1", "2"], "pass_rate": [0.5, float("nan")]}, "field 'pass_rate' must be a number"),
        ({"question": invalid(b"caf\xe9"), "answer": ["1", "2"]}, "field 'question': byte 0xE9 is not UTF-8"),
        ({"question": ["x", "y"], "answer": invalid(b"\xed\xa0\xbd")}, "field 'answer': byte 0xED is not UTF-8"),
    ],
)
def test_a_malformed_row_of_a_table_is_named(tmp_path, columns, message):
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table({"other": invalid(b"\xff"), **columns}), path)  # what is not looked at may be anything
    said = error_of(read_questions, path)
    assert said.startswith(f"{path}:{1 if 'True' in message else 2}: {message}")
    assert error_of(read_problems, path) == said


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
)
def test_any_object_is_read_or_refused_by_its_line(tmp_path_factory, row):
    """Nothing but ValueError, and what is not refused is what Python's own reader makes of it."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    line = json.dumps(row | {"question": "x", "answer": "1"})
    path.write_text(line + "\n")
    try:
        ((read, _),) = QuestionSet(path).read(Remarks(), whole=True)
    except ValueError as error:
        assert str(error).startswith(f"{path}:1: field ")
    else:
        assert read.fields == json.loads(line)


def test_what_is_at_the_limits_is_read(tmp_path):
    path = tmp_path / "data.jsonl"
    deep = "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1)
    path.write_text(f'{{"question": "\\ud83d\\ude00 {"{[" * 200}", "answer": {"9" * MAX_DIGITS}, "info": {deep}}}\n')
    (question,) = read_questions(path)
    assert question.question.startswith("\U0001f600 {[") and question.gold_answer == "9" * MAX_DIGITS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_a_large_file_is_not_held(tmp_path, name):
    """Rows that nobody keeps leave nothing behind; of a table, columns that are not needed are not read."""
    rows = [{"question": f"What is {i}? {'x' * 2000}", "answer": str(i), "generations": "y" * 8000} for i in range(1000)]
    path, table = tmp_path / name, pyarrow.Table.from_pylist(rows)
    if name.endswith(".parquet"):
        parquet.write_table(table, path, row_group_size=200, compression="none", use_dictionary=False)
    elif name.endswith(".arrow"):
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=200)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines, 1) if name.endswith(".gz") else lines)
    del rows, table
    read_questions(path)  # what is imported late is no part of it
    pool = pyarrow.default_memory_pool()
    held = pool.bytes_allocated()
    tracemalloc.start()
    most = 0
    for _ in QuestionSet(path).read(Remarks()):
        most = max(most, pool.bytes_allocated() - held)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5e6 and most < 5e6, (peak, most)  # of 10 MB
