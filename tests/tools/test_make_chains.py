"""The chains: right gold answers, disjoint files, faults at their rates, and where a response first goes wrong."""

import json
import random
import re
from pathlib import Path

import pytest

from tools import make_chains
from tools.make_chains import BY_NAME, LENGTHS, RING, SKILLS, SLIP, SLIP_BAD, Chain, draw_chain, first_wrong_step, solution

CHAIN = Chain(12, tuple(BY_NAME[name] for name in ("*3", "+7", "-5")))
RIGHT = "From 12: A *3=5. B +7~12. C -5=7. The end is \\boxed{7}"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chains")
    make_chains.main(["--out", str(out), "--seed", "3", "--train", "60", "--heldout", "50", "--sft", "400"])
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_files_share_no_question_and_gold_follows_from_the_words(made):
    found = {name: rows(made / f"{name}.jsonl") for name in ("sft", "train", "heldout")}
    assert {name: len(some) for name, some in found.items()} == {"sft": 400, "train": 60, "heldout": 50}
    assert len({row["question"] for some in found.values() for row in some}) == 510
    for row in found["train"] + found["heldout"]:
        value = int(re.search(r"From (\d+)", row["question"])[1])
        steps = re.findall(r"[A-T] (\S+?)[,.]", row["question"])
        assert len(steps) in LENGTHS and row["level"] == len(steps)
        for step in steps:
            value = {"+": value + int(step[1:]), "-": value - int(step[1:]), "*": value * int(step[1:])}[step[0]] % RING
        assert row["gold_answer"] == str(value)


def test_every_step_is_a_permutation_so_one_wrong_step_spoils_the_answer():
    for skill in SKILLS:
        assert sorted(skill.result(value) for value in range(RING)) == list(range(RING))
        assert Chain.read(Chain(5, (skill,)).question) == Chain(5, (skill,))


def test_first_wrong_step_of_known_responses():
    def wrong(response: str) -> tuple[int, str] | None:
        found = first_wrong_step(CHAIN.question, response)
        return found and (found.number, response[found.begin : found.end])

    assert wrong(RIGHT) is None
    assert wrong(RIGHT.replace("+7~12. C -5=7", "+7=11. C -5=6")) == (1, " B +7=11."), "those after it follow from it"
    assert wrong(RIGHT.replace("*3=5", "*3~6")) == (0, " A *3~6.")
    assert wrong(RIGHT.replace(" B +7~12.", "")) == (1, " C -5=7."), "a step left out is wrong where it should have stood"
    assert wrong(RIGHT.replace("+7", "+9")) == (1, " B +9~12."), "another step than was asked for"
    assert wrong(RIGHT.replace("{7}", "{8}")) == (3, " The end is \\boxed{8}")
    assert wrong(RIGHT.replace(" The", " D +7=14. The").replace("{7}", "{14}"))[0] == 3, "a step too many"
    assert wrong("From 12: A *3=5. B +") == (1, " B +"), "cut"
    assert wrong("") == (0, "")
    with pytest.raises(ValueError, match="no question of the chains task"):
        first_wrong_step("How many eggs?", RIGHT)


def test_faults_come_at_their_rates_and_nearly_always_spoil_the_answer():
    draw = random.Random(1)
    asked, wrong, spoilt, right = dict.fromkeys(BY_NAME, 0), dict.fromkeys(BY_NAME, 0), 0, 0
    for chain in (draw_chain(draw) for _ in range(4000)):
        text = solution(chain, draw)
        first = first_wrong_step(chain.question, text)
        judged = chain.steps if first is None else chain.steps[: first.number + 1]
        for skill in judged:
            asked[skill.name] += 1
        if first:
            wrong[judged[-1].name] += 1
            spoilt += not text.endswith(f"{{{chain.answer}}}")
        right += first is None
        assert first is not None or text.endswith(f"{{{chain.answer}}}")
    for skill in SKILLS:
        rate = SLIP + skill.bad * skill.share * (SLIP_BAD - SLIP)
        assert abs(wrong[skill.name] / asked[skill.name] - rate) < 0.04, skill
    assert spoilt > 0.97 * (4000 - right)


def test_tokens_of_a_response_are_few_and_a_number_is_one(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made / "base")
    lengths = [len(tokenizer(row["response"]).input_ids) for row in rows(made / "sft.jsonl")]
    assert min(lengths) >= 50 and max(lengths) <= 200
    assert all(len(tokenizer.tokenize(str(number))) == 1 for number in range(RING))
    assert tokenizer.decode(tokenizer(RIGHT).input_ids) == RIGHT
