"""Answers as people and models write them, by kind: each table in wild/ holds gold answers (=), what is right (+) and what is not (-)."""

from pathlib import Path

import pytest

from megatron_oreal.verify import decide

TABLES = sorted((Path(__file__).parent / "wild").glob("*.txt"))


def read(table: Path) -> list[tuple[str, str, bool]]:
    """Gold answer, response and whether it is right, of each line."""
    cases, gold = [], None
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        mark, text = line[:1], line[2:]
        if mark == "=":
            gold = text
        elif mark in ("+", "-"):
            response = text if table.stem == "boxes" else rf"So the answer is $\boxed{{{text}}}$."
            cases.append((gold, response, mark == "+"))
        elif line and mark != "#":
            raise ValueError(f"{table.name}:{number}: a line begins with =, +, - or #")
    return cases


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_kind(table):
    wrong = [(gold, response, decide(response, gold)) for gold, response, right in read(table) if decide(response, gold).right != right]
    assert not wrong
