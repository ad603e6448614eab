"""The score on the labelled development cases, where they are beside the checkout."""

import json
from pathlib import Path

import pytest

from megatron_oreal.verify import check

CASES = Path(__file__).resolve().parents[3] / "shared" / "verifier"


@pytest.mark.parametrize("name", ["cases_constructed.jsonl", "cases_natural.jsonl"])
def test_score(name):
    if not (CASES / name).exists():
        pytest.skip(f"{CASES / name} is not there: the labelled cases are no part of the repository")
    cases = [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]
    cases = [case for case in cases if not case.get("debatable")]
    said = [check(case["prediction"], case["gold"]) for case in cases]
    wrong = [case["id"] for case, right in zip(cases, said, strict=True) if right != case["expected"]]
    false_positives = sum(right and not case["expected"] for case, right in zip(cases, said, strict=True))
    assert len(wrong) <= len(cases) / 100, wrong
    assert false_positives <= max(1, len(cases) / 1000)
