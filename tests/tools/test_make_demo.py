"""The demo task: right gold answers, disjoint files, a model that others can load, faults at the rates that are stated."""

import importlib.util
import json
import random
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "make_demo.py"


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("make_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(demo, out: Path, seed: int = 3) -> Path:
    demo.main(["--out", str(out), "--seed", str(seed), "--train", "60", "--heldout", "50", "--sft", "400"])
    return out


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory) -> Path:
    return write(demo, tmp_path_factory.mktemp("demo"))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_files_share_no_question_and_have_the_sizes_asked_for(made):
    questions = {name: [row["question"] for row in rows(made / f"{name}.jsonl")] for name in ("sft", "train", "heldout")}
    assert {name: len(found) for name, found in questions.items()} == {"sft": 400, "train": 60, "heldout": 50}
    assert len({question for found in questions.values() for question in found}) == 510


def test_same_seed_same_bytes_other_seed_other_questions(demo, made, tmp_path):
    again, other = write(demo, tmp_path / "again"), write(demo, tmp_path / "other", seed=4)
    for name in ("sft.jsonl", "train.jsonl", "heldout.jsonl", "base/model.safetensors"):
        assert (again / name).read_bytes() == (made / name).read_bytes()
        assert (other / name).read_bytes() != (made / name).read_bytes()
    assert (again / "base/tokenizer.json").read_bytes() == (other / "base/tokenizer.json").read_bytes()


def test_solutions_without_faults_end_in_the_gold_answer_and_every_step_is_true(demo):
    rng, faultless = random.Random(0), demo.Faults(slip=0, leap=0, leap_wrong=0, early=0, misread=0)
    for problem in demo.draw_distinct(rng, 500):
        text = demo.solution(problem, rng, faultless)
        written = re.findall(r"(\d+)([-+*])(\d+)=(\d+)\.", text)
        assert len(written) == len(problem.steps)
        for left, operator, right, result in written:
            assert {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[operator] == int(result)
        assert text.endswith(f"So \\boxed{{{problem.answer}}}")


def test_gold_answers_of_known_questions(demo):
    """The words and the steps agree: worked out by hand from the words alone."""
    checked = set()
    for problem in demo.draw_distinct(random.Random(1), 400):
        numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
        if problem.kind == "cost" and len(problem.steps) == 3:
            assert problem.answer == numbers[0] * numbers[1] + numbers[2] * numbers[3]
        elif problem.kind in ("times", "fewer") and len(problem.steps) == 2:
            assert problem.answer == numbers[0] + (numbers[0] * numbers[1] if problem.kind == "times" else numbers[0] - numbers[1])
        elif problem.kind in ("change", "packs"):
            signs = [1 if word == "gets" else -1 for word in re.findall(r"(gets|loses) \d+", problem.question)]
            start = numbers[0] if problem.kind == "change" else numbers[0] * numbers[1]
            amounts = numbers[len(numbers) - len(signs) :]
            assert problem.answer == start + sum(sign * amount for sign, amount in zip(signs, amounts, strict=True))
        else:
            continue
        checked.add((problem.kind, len(problem.steps)))
    assert len(checked) >= 9


def test_faults_come_at_their_rates(demo):
    rng, faults = random.Random(2), demo.Faults(slip=0, leap=0, leap_wrong=0, early=0.6, misread=0.3)
    for kind, rate in (("packs", 0.6), ("times", 0.6), ("fewer", 0.3)):
        problems = [problem for problem in demo.draw_distinct(rng, 6000) if problem.kind == kind and len(problem.steps) > 1]
        wrong = sum(not demo.solution(problem, rng, faults).endswith(f"{{{problem.answer}}}") for problem in problems)
        assert abs(wrong / len(problems) - rate) < 0.06


def test_base_loads_and_stops_at_the_end_of_turn(demo, made):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer, model = AutoTokenizer.from_pretrained(made / "base"), AutoModelForCausalLM.from_pretrained(made / "base")
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == stop == GenerationConfig.from_pretrained(made / "base").eos_token_id == model.config.eos_token_id
    assert model.config.vocab_size % 8 == 0 and model.config.vocab_size >= len(tokenizer)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "1 and 12?"}], add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user\n1 and 12?<|im_end|>\n<|im_start|>assistant\n"
    row = rows(made / "sft.jsonl")[0]
    for text in (row["question"], row["response"]):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert all(len(tokenizer.tokenize(str(number))) == 1 for number in range(1, demo.LARGEST + 1))
    assert max(len(tokenizer(row["response"]).input_ids) for row in rows(made / "sft.jsonl")) <= 60
