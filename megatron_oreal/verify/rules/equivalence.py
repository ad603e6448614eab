"""The rule check: a ladder from string equality to probing that says yes, no or undecided with its reason."""

import re
from collections.abc import Iterator

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.extraction.answer import final_answer, gold_answer
from megatron_oreal.verify.rules.comparison.comparison import Comparison
from megatron_oreal.verify.rules.reading.lexer import CannotRead
from megatron_oreal.verify.rules.reading.normalize import normalize, squeeze, unlabelled
from megatron_oreal.verify.rules.reading.parser import parse
from megatron_oreal.verify.rules.syntax import Const, Func, rebuild, walk
from megatron_oreal.verify.rules.text import by_text, verdict
from megatron_oreal.verify.rules.values.budget import CannotDecide

MAX_CHARS = 1_200
"""Longer answers are compared as strings only; the longest gold of MATH and OlympiadBench has some 500."""

_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")


def check(response: str, gold: str) -> bool:
    """Whether the final answer of a response equals the gold answer. Safe on any input; never raises."""
    return decide(response, gold).right


def decide(response: str, gold: str) -> Verdict:
    """The full form of `check`: right or not, why, and whether the rules could tell."""
    answer = final_answer(response)
    if answer is None:
        return Verdict(False, "no answer")
    return compare(answer, gold)


def compare(answer: str, gold: str) -> Verdict:
    """Compare an extracted answer with the gold answer (which may stand in a box). Never raises; the work is bounded."""
    try:
        return _compare(answer, gold)
    except Exception as error:  # a fault of ours: it costs this case, and is told apart from "different"
        return Verdict(False, f"error: {type(error).__name__}", decided=False)


def _compare(answer: str, gold: str) -> Verdict:
    gold = gold_answer(gold)
    if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
        same = len(answer) < 10 * MAX_CHARS and answer == gold
        return Verdict(same, "equal" if same else "too long", decided=same)
    answer, gold = normalize(answer), normalize(gold)
    if squeeze(answer) != squeeze(gold):
        answer, gold = unlabelled(answer), unlabelled(gold)
    known = by_text(answer, gold)
    return _by_meaning(answer, gold) if known is None else known


def _by_meaning(answer: str, gold: str) -> Verdict:
    """The rungs on syntax trees. A text with two readings (1,234) is right when one of them is."""
    refused = None
    for gold_tree, answer_tree in _readings(answer, gold):
        if isinstance(gold_tree, Exception) or isinstance(answer_tree, Exception):
            refused = refused or "answer not read" if isinstance(answer_tree, Exception) else "gold not read"
            continue
        try:
            if Comparison().same(gold_tree, answer_tree):
                return Verdict(True, "equal")
        except CannotDecide as error:
            refused = f"undecided: {error}"
        except (RecursionError, MemoryError, ArithmeticError) as error:
            refused = f"undecided: {type(error).__name__}"
    return verdict(False) if refused is None else Verdict(False, refused, decided=False)


def _readings(answer: str, gold: str) -> Iterator[tuple]:
    grouped = _THOUSANDS.search(answer) or _THOUSANDS.search(gold)
    seen = []
    for thousands in (True, False) if grouped else (True,):
        golds, answers = _read(gold, thousands), _read(answer, thousands)
        seen.append((golds, answers))
        yield golds, answers
    if grouped:
        yield seen[0][0], seen[1][1]
        yield seen[1][0], seen[0][1]
    golds, answers = seen[0]
    if not isinstance(golds, Exception) and not isinstance(answers, Exception) and _has(golds, "ln") != _has(answers, "ln"):
        yield _natural(golds), _natural(answers)


def _read(text: str, thousands: bool):
    try:
        return parse(text, thousands)
    except (CannotRead, RecursionError, ValueError, OverflowError) as error:
        return error


def _has(tree, name: str) -> bool:
    return any(isinstance(node, Func) and node.name == name for node in walk(tree))


def _natural(tree):
    """A bare \\log beside the other side's \\ln means the natural logarithm."""
    if isinstance(tree, Func) and tree.name == "log":
        return Func("ln", tuple(map(_natural, tree.args)))
    return rebuild(tree, _natural) if not isinstance(tree, Const) else tree
