"""The rungs of the rule check that need no parser: equal strings, whole numbers, letters of a choice."""

import re

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.rules.reading.normalize import squeeze

_INTEGER = re.compile(r"[-+]?\d{1,400}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?[.:]?")
_CHOICE = re.compile(r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?[ :]*)?\(?\s*([A-Z])\s*\)?[.:]?", re.IGNORECASE)
_LETTER_WITH_VALUE = re.compile(r"(?:\(\s*([A-J])\s*\)|([A-J])[.:)])\s*(\S.*)", re.DOTALL)
_ANOTHER_CHOICE = re.compile(
    r"[,;/&]|\(\s*[A-J]\s*\)|(?:or|and)\b|\\(?:lor|vee|land|wedge|cup|cap|pm)(?![a-zA-Z])|.*\b(?:or|and) \(?[A-J]\b"
)
_DECIMAL_POINT = re.compile(r"[-+]?\d+\.\d+")
_DECIMAL_COMMA = re.compile(r"[-+]?(?:\d+,(?!\d{3}$)\d{2,}|0,\d+|\d{4,},\d+)")  # 1,234 is a thousand; 3,4 is a list
_EUROPEAN = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+,\d+")  # 1.234,5


def verdict(right: bool) -> Verdict:
    """One that is decided."""
    return Verdict(right, "equal" if right else "different")


def by_text(answer: str, gold: str) -> Verdict | None:
    """What the text of two normalised answers shows; None where they have to be read."""
    if not answer or not gold:
        return Verdict(False, "no answer" if gold else "no gold answer", decided=bool(gold))
    if squeeze(answer) == squeeze(gold):
        return verdict(True)
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return verdict(int(answer) == int(gold))
    plain_answer, plain_gold = (_TEXT_COMMAND.sub(r"\1", text).strip(" .") for text in (answer, gold))
    spelled_out = len(plain_gold) > 2 or plain_gold.casefold() == "no"
    if plain_answer.casefold() == plain_gold.casefold() and spelled_out and plain_gold.replace(" ", "").isalnum():
        return verdict(True)
    letter = _LETTER.fullmatch(plain_gold)
    return _by_decimals(answer, gold) or (_by_letter(plain_answer, letter.group(1)) if letter else None)


def _by_decimals(answer: str, gold: str) -> Verdict | None:
    """3,14 against 3.14; None where they are not written so."""
    answer, gold = (text.replace(".", "") if _EUROPEAN.fullmatch(text) else text for text in (answer, gold))
    for comma, point in ((answer, gold), (gold, answer)):
        if _DECIMAL_COMMA.fullmatch(comma) and _DECIMAL_POINT.fullmatch(point):
            return verdict(comma.replace(",", ".") == point)
    return None


def _by_letter(answer: str, letter: str) -> Verdict | None:
    """A letter of a choice against `(C)`, `Option C` and `(C) 12`; None where the answer is none of these."""
    alone = _CHOICE.fullmatch(answer)
    if alone and alone.group(1).isupper():
        return verdict(alone.group(1) == letter)
    chosen = _LETTER_WITH_VALUE.fullmatch(answer)
    if chosen and not _ANOTHER_CHOICE.match(chosen.group(3)):
        return verdict((chosen.group(1) or chosen.group(2)) == letter)
    return None
