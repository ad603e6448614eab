"""Questions under the names and in the files in which sets are published; what was read otherwise than it stands there is said."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from pyarrow import feather, parquet

from megatron_oreal.config import PassrateConfig, SftConfig, TrainConfig, load
from megatron_oreal.coordinator.supervised import read_supervised
from megatron_oreal.data import fields as known
from megatron_oreal.data.config import DataConfig
from megatron_oreal.data.questions import Question, QuestionSet, Remarks, read_questions
from megatron_oreal.data.training import REPEATED, read_training
from megatron_oreal.evaluation.sets import read_problems
from megatron_oreal.model.config import sequence_multiple
from tests.settings import shipped

DATA = Path(__file__).parents[3] / "shared" / "data"
DAPO = known.ELSEWHERE[0]
IN_USE = {  # a row of each, as published (texts shortened) -> question, gold answer
    "OREAL-RL-Prompts": ({"question": "P", "gold_answer": r"\frac{1}{2}", "pass_rate": 0.25}, ("P", r"\frac{1}{2}")),
    "DAPO-Math-17k": (
        {
            "data_source": "math_dapo",
            "prompt": [{"content": f"{DAPO[0]}P{DAPO[1]}", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
        },
        ("P", "34"),
    ),
    "DAPO-Math-17k-Processed": (
        {"prompt": "P", "solution": "34", "reward_model": {"ground_truth": "34", "style": "rule"}, "extra_info": {"index": "9a"}},
        ("P", "34"),
    ),
    "slime": ({"prompt": [{"role": "user", "content": f"{DAPO[0]}P{DAPO[1]}"}], "label": "34"}, ("P", "34")),
    "verl GSM8K": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": 'P Let\'s think step by step and output the final answer after "####".'}],
            "reward_model": {"style": "rule", "ground_truth": "72"},
            "extra_info": {"split": "train", "index": 0, "answer": "... #### 72", "question": "P"},
        },
        ("P", "72"),
    ),
    "verl MATH": (
        {
            "prompt": [
                {"role": "system", "content": "You are helpful."},
                {"role": "user", "content": r"P Let's think step by step and output the final answer within \boxed{}."},
            ],
            "reward_model": {"style": "rule", "ground_truth": "(3,4]"},
            "extra_info": {"split": "train", "index": 7},
        },
        (r"P Let's think step by step and output the final answer within \boxed{}.", "(3,4]"),
    ),
    "DeepScaleR": ({"problem": "P", "answer": "-\\frac{2}{3}", "solution": r"Then \boxed{7}."}, ("P", "-\\frac{2}{3}")),
    "OpenR1-Math": (
        {
            "problem": "P",
            "solution": "s",
            "answer": "18",
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "source": "olympiads",
            "uuid": "586fd646",
            "generations": ["g"],
            "correctness_math_verify": [True],
        },
        ("P", "18"),
    ),
    "Big-Math": ({"problem": "P", "answer": "5", "source": "orca_math", "domain": ["Geometry"], "llama8b_solve_rate": 0.7}, ("P", "5")),
    "NuminaMath-CoT": (
        {
            "source": "synthetic_math",
            "problem": "P",
            "solution": r"so $\boxed{\frac{13}{6}}$.",
            "messages": [{"role": "user", "content": "P"}],
        },
        ("P", r"\frac{13}{6}"),
    ),
    "NuminaMath-1.5": (
        {
            "problem": "P",
            "solution": "s",
            "answer": "3",
            "question_type": "MCQ",
            "problem_is_valid": "Yes",
            "source": "amc",
            "synthetic": False,
        },
        ("P", "3"),
    ),
    "MATH": ({"problem": "P", "level": "Level 5", "type": "Algebra", "solution": r"so $\boxed{\text{even}}$"}, ("P", r"\text{even}")),
    "GSM8K": ({"question": "P", "answer": "48/2 = <<48/2=24>>24 clips\n#### 72"}, ("P", "72")),
}


def write(path: Path, rows: list[dict]) -> Path:
    """In the form that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix in (".parquet", ".feather", ".arrow"):
        table = pyarrow.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            parquet.write_table(table, path, row_group_size=2)
        elif path.stem == "file":
            feather.write_feather(table, str(path), compression="uncompressed")
        else:
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows, indent=1) if path.suffix == ".json" else lines)
    return path


@pytest.mark.parametrize("name", IN_USE)
def test_sets_in_use_are_read_as_they_are_from_every_kind_of_file_for_training_and_for_evaluation(tmp_path, name):
    row, expected = IN_USE[name]
    for file in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "stream.arrow", "file.arrow"):
        path = write(tmp_path / file, [row])
        (question,) = read_questions(path)
        assert (question.question, question.gold_answer, question.id) == (*expected, "1"), file
        assert question.pass_rate == row.get("pass_rate")
        assert [problem.question for problem in read_problems(path)] == [question]


def remarks_of(path: Path) -> list[str]:
    remarks = Remarks()
    list(QuestionSet(path).read(remarks))
    return remarks.lines()


def test_what_stands_around_a_question_is_left_out_and_said(tmp_path):
    rows = [IN_USE["verl MATH"][0], IN_USE["verl GSM8K"][0], IN_USE["verl GSM8K"][0]]
    path = write(tmp_path / "a.jsonl", rows)
    assert remarks_of(path) == [f"1 row with {known.SYSTEM} (first {path}:1)", f"2 rows with {known.INSTRUCTED} (first {path}:2)"]


def test_rows_of_numina_without_an_answer_are_left_out_and_said_and_in_any_other_set_an_error(tmp_path):
    cot, newer = IN_USE["NuminaMath-CoT"][0], IN_USE["NuminaMath-1.5"][0]
    for row, lacking in (
        (cot, [{"solution": "We prove it."}, {"solution": r"as was to be shown $\boxed{}$"}]),
        (newer, [{"answer": "proof"}, {"answer": "notfound"}, {"answer": ""}]),
    ):
        path = write(tmp_path / "numina.parquet", [row, *(row | lack for lack in lacking)])
        assert [q.id for q in read_questions(path)] == ["1"]
        assert remarks_of(path) == [f"{len(lacking)} rows with {known.UNANSWERED} (first {path}:2)"]
    for row in ({"problem": "P", "solution": "We prove it."}, {"problem": "P", "answer": ""}):
        with pytest.raises(ValueError, match=r"a.jsonl:1: field '(solution|answer)' (is the only answer there is|must be an answer)"):
            read_questions(write(tmp_path / "a.jsonl", [row]))


def test_other_names_are_given_by_fields_and_are_then_the_only_ones(tmp_path):
    row = {
        "question": "not this",
        "q": {"text": "P"},
        "answer": "not this",
        "worked": r"it is \boxed{5}",
        "rate": 0.5,
        "id": "x",
        "pass_rate": 3,
    }
    path = write(tmp_path / "a.parquet", [row])
    given = {"question": "q.text", "solution": "worked", "pass_rate": "rate", "id": None}
    assert read_questions(path, given) == [Question("1", "P", "5", 0.5)]
    assert read_questions(path, given | {"gold_answer": "answer", "pass_rate": None}) == [Question("1", "P", "not this")]
    for wrong, message in (
        ({"question": "q.txt"}, r"a.parquet:1: field 'q.txt' \(fields.question\) is missing"),
        ({"id": "uid"}, "fields.id"),
    ):
        with pytest.raises(ValueError, match=message):
            read_questions(path, given | wrong)


def test_folders_are_read_by_split_train_for_training_and_test_for_evaluation(tmp_path):
    rows = [{"problem": "P", "answer": str(i)} for i in range(3)]
    for train, test in (
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"),
        ("gsm8k-train.arrow", "gsm8k-test.arrow"),
        ("train.jsonl.gz", "test.jsonl.gz"),
        ("train/algebra.json", "test/algebra.json"),
    ):
        folder = tmp_path / Path(train).name
        write(folder / train, rows), write(folder / test, rows[:1])
        (folder / "dataset_info.json").write_text("{}")
        assert (len(read_questions(folder)), len(read_problems(folder))) == (3, 1), train
    shards = [write(tmp_path / "set" / "data" / f"train-0000{i}-of-00002.jsonl", rows[:2]) for i in range(2)]
    assert [q.id for q in read_questions(tmp_path / "set")] == [f"{shard.stem}:{line}" for shard in shards for line in (1, 2)]
    write(tmp_path / "set" / "extended" / "train-00000-of-00001.jsonl", rows)
    with pytest.raises(ValueError, match=r"split 'train' is in several folders \(data, extended\); name one of them as the set's data"):
        read_questions(tmp_path / "set")


def data_config(*overrides: str) -> DataConfig:
    return load(TrainConfig, "train", ["model.path=M", *overrides]).data


def test_several_sets_are_read_together_and_each_question_of_a_set_once(tmp_path):
    dapo = IN_USE["DAPO-Math-17k"][0]
    conflicting = dapo | {"reward_model": {"ground_truth": "35"}}
    write(tmp_path / "dapo.parquet", [dapo] * 4 + [conflicting])
    write(tmp_path / "own.jsonl", [{"q": "P", "a": 34, "id": "x"}])
    config = data_config(
        f"data.train={tmp_path / 'dapo.parquet'}",
        f"data.sets.own.data={tmp_path / 'own.jsonl'}",
        "data.sets.own.fields={question: q, gold_answer: a}",
    )
    read = read_training(config)
    assert read.questions == [
        Question("dapo/1", "P", "34", origin="dapo"),
        Question("dapo/5", "P", "35", origin="dapo"),
        Question("own/x", "P", "34", origin="own"),
    ]
    assert any(f"dapo: 3 rows with {REPEATED}" in note for note in read.notes) and any(
        "1 row with the question of" in n for n in read.notes
    )
    assert config.weights == {}
    alone = read_training(data_config(f"data.sets.own.data={tmp_path / 'own.jsonl'}", "data.fields={question: q, gold_answer: a}"))
    assert alone.questions == [Question("x", "P", "34")]  # one set: no origin to tell
    assert load(PassrateConfig, "passrate", ["model.path=M", "questions=Q", "out=O", "fields.question=q"]).fields == {"question": "q"}
    assert shipped().data.resolved()["unused"].fields == {}


def test_supervised_examples_are_read_from_the_same_files(tmp_path, served_model):
    rows = [{"prompt": [{"role": "user", "content": f"What is {i}?"}], "solution": f"It is {i}."} for i in range(3)]
    samples = []
    for file in ("a.jsonl", "a.parquet"):
        given = [f"model.path={served_model}", f"data.train={write(tmp_path / file, rows)}", "data.fields.response=solution"]
        read = read_supervised(load(SftConfig, "sft", given))
        samples.append([replace(sample, prompt_id="") for sample in read.samples])
    assert samples[0] == samples[1] and len(samples[0]) == 3
    write(tmp_path / "a.parquet", [*rows, {"prompt": rows[0]["prompt"], "solution": None}])
    with pytest.raises(ValueError, match="a.parquet:4: field 'response' is missing"):
        read_supervised(load(SftConfig, "sft", given))


@pytest.mark.parametrize(
    ("field", "words", "budget", "said"),
    [
        ("response", 30, 100, "learn.tokens_per_micro_batch=100 holds, which may be raised; 2 rows are too long, the longest has"),
        ("question", 30, 100, "learn.tokens_per_micro_batch=100 holds"),
        ("response", 300, 10_000, r"the model's 512 positions \(max_position_embeddings\)"),
    ],
)
def test_supervised_examples_that_are_too_long_are_refused_by_file_line_and_field(tmp_path, served_model, field, words, budget, said):
    rows = [{"question": "What is 2?", "response": "It is 2."} for _ in range(4)]
    rows[1][field] = "7 + " * words
    rows[3][field] = "7 + " * (words + 20)
    data = write(tmp_path / "a.jsonl", rows)
    given = [f"model.path={served_model}", f"data.train={data}", f"learn.tokens_per_micro_batch={budget}", "parallel.cp=1"]
    with pytest.raises(ValueError, match=f"a.jsonl:2: field '{field}': .* more than {said}") as error:
        read_supervised(load(SftConfig, "sft", given))
    assert "\n" not in str(error.value)


def test_examples_that_just_fit_are_read_and_padding_counts(tmp_path, served_model):
    """Context-parallel ranks pad each example to a multiple of theirs."""
    data = write(tmp_path / "a.jsonl", [{"question": "What is 2?", "response": "7 + " * 20}])
    given = [f"model.path={served_model}", f"data.train={data}"]
    (sample,) = read_supervised(load(SftConfig, "sft", given)).samples
    length = sample.length
    assert read_supervised(load(SftConfig, "sft", [*given, f"learn.tokens_per_micro_batch={length}"])).samples == [sample]
    with pytest.raises(ValueError, match="a.jsonl:1: field 'response'"):
        read_supervised(load(SftConfig, "sft", [*given, f"learn.tokens_per_micro_batch={length - 1}"]))
    multiple = sequence_multiple(2)
    padded = length + -length % multiple
    fits, not_quite = ([*given, "parallel.cp=2", f"learn.tokens_per_micro_batch={padded - less}"] for less in (0, 1))
    assert read_supervised(load(SftConfig, "sft", fits)).samples == [sample]
    with pytest.raises(ValueError, match="a.jsonl:1: field 'response'"):
        read_supervised(load(SftConfig, "sft", not_quite))


def test_questions_held_out_of_supervised_examples_need_answers_and_are_trained_on_nowhere(tmp_path, served_model):
    rows = [{"question": f"What is {i // 2}?", "response": f"It is {i}.", "gold_answer": str(i // 2)} for i in range(12)]
    given = [f"model.path={served_model}", f"data.train={write(tmp_path / 'a.jsonl', rows)}", "eval.validation=2"]
    read = read_supervised(load(SftConfig, "sft", given))
    (held_out,) = read.sets
    places = {int(sample.prompt_id.rpartition(":")[2]) - 1 for sample in read.samples}
    asked = {problem.question.question for problem in held_out.problems}
    assert len(asked) == 2 and len(places) == 8 and not asked & {rows[place]["question"] for place in places}
    del rows[3]["gold_answer"]
    write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match="a.jsonl:4: field 'gold_answer' is missing"):
        read_supervised(load(SftConfig, "sft", given))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data sets in {DATA}")
@pytest.mark.parametrize("name", ["gsm8k_train_2000", "math_train_2000", "math500", "aime24", "amc23", "olympiadbench", "gsm8k_test"])
def test_real_sets_are_the_same_in_every_kind_of_file(tmp_path, name):
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").open(encoding="utf-8")]
    expected = read_questions(DATA / f"{name}.jsonl")
    assert [(q.question, q.id) for q in expected] == [(row["question"], str(row["id"])) for row in rows]
    for file in ("a.parquet", "a.jsonl.gz", "a.json", "stream.arrow"):
        assert read_questions(write(tmp_path / file, rows)) == expected, file
