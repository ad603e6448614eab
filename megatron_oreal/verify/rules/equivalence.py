"""The rule check: a ladder from string equality to probing that says yes, no or undecided with its reason."""

import re
from collections.abc import Iterator

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.extraction.answer import final_answer, gold_answer
from megatron_oreal.verify.rules.comparison.comparison import Comparison
from megatron_oreal.verify.rules.comparison.conventions import in_other_conventions
from megatron_oreal.verify.rules.reading.lexer import CannotRead
from megatron_oreal.verify.rules.reading.normalize import normalize
from megatron_oreal.verify.rules.reading.parser import parse
from megatron_oreal.verify.rules.syntax import Const, Func, rebuild, walk
from megatron_oreal.verify.rules.text import by_text, verdict
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.wording.chinese import translated
from megatron_oreal.verify.rules.wording.choices import choice
from megatron_oreal.verify.rules.wording.direction import change
from megatron_oreal.verify.rules.wording.notation import other_readings
from megatron_oreal.verify.rules.wording.numbers import count_of_things
from megatron_oreal.verify.rules.wording.rewording import reworded

MAX_CHARS = 1_200
"""Longer answers are compared as strings only; the longest gold of MATH and OlympiadBench has some 500."""

MAX_READINGS = 4

_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")


def check(response: str, gold: str, extract: str = "boxed") -> bool:
    """Whether the final answer of a response equals the gold answer. Safe on any input; never raises."""
    return decide(response, gold, extract).right


def decide(response: str, gold: str, extract: str = "boxed") -> Verdict:
    """The full form of `check`: right or not, why, and whether the rules could tell. `extract` as in conf/verify."""
    answer = final_answer(response, extract)
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
    answer, gold = translated(normalize(answer)), translated(normalize(gold))
    known = by_text(answer, gold)
    if known is None:
        known = _by_choice(answer, gold) or _by_direction(answer, gold)
    return _by_readings(answer, gold) if known is None else known


def _by_choice(answer: str, gold: str) -> Verdict | None:
    """Letters of a choice with their texts or values; None where no side has one, or the gold letter stands alone beside a value."""
    chosen, right = choice(answer), choice(gold)
    if chosen and right:
        if chosen.letter != right.letter:
            return verdict(False)
        if not chosen.rest or not right.rest or _compare_values(chosen.rest, right.rest).right:
            return verdict(True)
        return Verdict(False, "undecided: the letter, but another value", decided=False)
    if right and right.rest:
        return _compare_values(answer, right.rest)
    if chosen and chosen.rest:
        return _compare_values(chosen.rest, gold)
    return None


def _by_direction(answer: str, gold: str) -> Verdict | None:
    """5 % decrease is -5 %, and not the 5 % that it may be called; None where no side says which way it goes."""
    ours, theirs = change(answer), change(gold)
    if ours.way == theirs.way == 0:
        return None
    if ours.way and theirs.way:
        return _compare_values(ours.size, theirs.size) if ours.way == theirs.way else verdict(False)
    same = _compare_values(ours.size, theirs.size)
    if (ours.way or theirs.way) > 0 or not same.decided:
        return same
    if same.right:
        return Verdict(False, "undecided: a decrease, or its size", decided=False)
    return _compare_values(f"-{ours.size}", theirs.size) if ours.way else _compare_values(ours.size, f"-{theirs.size}")


def _compare_values(answer: str, gold: str) -> Verdict:
    known = by_text(answer, gold)
    return _by_readings(answer, gold) if known is None else known


def _by_readings(answer: str, gold: str) -> Verdict:
    """By the first reading, and where that does not say right, by what answer and gold answer may mean as well."""
    first = _by_wording(answer, gold)
    if first.right:
        return first
    others = [(text, gold) for text in other_readings(answer, gold)] + [(answer, text) for text in other_readings(gold, answer)]
    if gold[-1:].isdigit() or "\\text" in gold:
        others += [(counted, gold) for counted in (count_of_things(answer),) if counted]
    for pair in others[:MAX_READINGS]:
        other = _by_wording(*pair)
        if other.right:
            return other
    return first


def _by_wording(answer: str, gold: str) -> Verdict:
    answer, gold = reworded(answer, gold), reworded(gold, answer)
    known = by_text(answer, gold)
    return _by_meaning(answer, gold) if known is None else known


def _by_meaning(answer: str, gold: str) -> Verdict:
    """The rungs on syntax trees. A text with two readings (1,234) is right when one of them is."""
    refused = None
    for gold_tree, answer_tree in _readings(answer, gold):
        if isinstance(gold_tree, Exception) or isinstance(answer_tree, Exception):
            refused = refused or "answer not read" if isinstance(answer_tree, Exception) else "gold not read"
            continue
        said = _same(gold_tree, answer_tree)
        if said is True:
            return Verdict(True, "equal")
        refused = f"undecided: {said}" if said else refused
    return verdict(False) if refused is None else Verdict(False, refused, decided=False)


def _same(gold, answer) -> bool | str:
    """Whether two trees are the same answer, or why it cannot be decided; two conventions are such a reason."""
    try:
        if Comparison().same(gold, answer):
            return True
        for other_gold, other_answer, conventions in in_other_conventions(gold, answer):
            if Comparison().same(other_gold, other_answer):
                return conventions
    except CannotDecide as error:
        return str(error)
    except (RecursionError, MemoryError, ArithmeticError) as error:
        return type(error).__name__
    return False


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
