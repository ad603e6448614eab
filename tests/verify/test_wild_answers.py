"""Answers as people and models write them, by kind: each table in wild/ holds gold answers (=), what is right (+) and what is not (-)."""

import pytest

from megatron_oreal.verify import decide
from tools.bench_verifier import TABLES, read_table


@pytest.mark.parametrize("table", sorted(TABLES.glob("*.txt")), ids=lambda table: table.stem)
def test_kind(table):
    verdicts = [(case, decide(case.response, case.gold)) for case in read_table(table)]
    wrong = [(case.gold, case.response, verdict.reason) for case, verdict in verdicts if verdict.right != case.expected]
    assert verdicts and not wrong
