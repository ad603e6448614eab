"""The score on the labelled development cases and the golds of the data sets, where they are beside the checkout."""

import json
import re
from pathlib import Path

import pytest

from megatron_oreal.verify import check

CASES = Path(__file__).resolve().parents[3] / "shared" / "verifier"


@pytest.mark.parametrize("name", ["cases_constructed.jsonl", "cases_natural.jsonl"])
def test_score(name):
    if not (CASES / name).exists():
        pytest.skip(f"{CASES / name} is not there: the labelled cases are no part of the repository")
    cases = [json.loads(line) for line in (CASES / name).open(encoding="utf-8")]
    cases = [case for case in cases if not case.get("debatable")]
    said = [check(case["prediction"], case["gold"]) for case in cases]
    wrong = [case["id"] for case, right in zip(cases, said, strict=True) if right != case["expected"]]
    false_positives = sum(right and not case["expected"] for case, right in zip(cases, said, strict=True))
    assert len(wrong) <= len(cases) / 100, wrong
    assert false_positives <= max(1, len(cases) / 1000)


def golds() -> list[str]:
    """The distinct gold answers of MATH, GSM8K, AMC, AIME and OlympiadBench beside the checkout."""
    files = [file for file in sorted((CASES.parent / "data").glob("*.jsonl")) if not file.name.startswith("published_")]  # no questions
    if not files:
        pytest.skip(f"no data sets in {CASES.parent / 'data'}: they are no part of the repository")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return list(dict.fromkeys(str(json.loads(line)["gold_answer"]) for line in lines))


DRESSES = {
    "as it is": lambda gold: gold,
    "dfrac": lambda gold: gold.replace(r"\frac", r"\dfrac"),
    "full stop": lambda gold: gold + ".",
    "plain brackets": lambda gold: re.sub(r"\\(?:left|right)(?![a-z])", "", gold),
    "styled": lambda gold: r"\displaystyle " + gold + "\n",
    "without its unit": lambda gold: re.sub(r"(?<=\d)\s*\\(?:text|mbox|textrm)\{[^{}]*\}(?:\^\d)?$", "", gold),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_every_gold_is_itself(dress):
    wrong = [gold for gold in golds() if not check(rf"\boxed{{{DRESSES[dress](gold)}}}", gold)]
    assert not wrong


def test_no_gold_is_another_by_one_digit():
    """The last whole number of each gold one more; 1_7 and 1_8 are the same number."""
    wrong = []
    for gold in golds():
        digits = list(re.finditer(r"\d+", gold))
        if digits and gold != "1_7":
            changed = gold[: digits[-1].start()] + str(int(digits[-1].group()) + 1) + gold[digits[-1].end() :]
            wrong.extend([(gold, changed)] * check(rf"\boxed{{{changed}}}", gold))
    assert not wrong
