"""The rungs of the rule check that need no parser: equal strings, whole numbers, letters of a choice, times, dates and phrases."""

import re
from fractions import Fraction

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.rules.reading.normalize import squeeze
from megatron_oreal.verify.rules.wording.choices import same_choices
from megatron_oreal.verify.rules.wording.clock import time_of_day
from megatron_oreal.verify.rules.wording.dates import date
from megatron_oreal.verify.rules.wording.direction import opposed
from megatron_oreal.verify.rules.wording.measures import same_counts, same_measure
from megatron_oreal.verify.rules.wording.phrases import same_phrase

_INTEGER = re.compile(r"[-+]?\d{1,400}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPELLED_OUT = re.compile(r"[A-Za-z]{3}")
_LETTER = re.compile(r"\(?\s*([A-Z])\s*\)?[.:]?")
_CHOICE = re.compile(r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?[ :]*)?\(?\s*([A-Z])\s*\)?[.:]?", re.IGNORECASE)
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
    if {squeeze(answer), squeeze(gold)} == {"R", r"\mathbb{R}"}:
        return verdict(True)
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return verdict(int(answer) == int(gold))
    plain_answer, plain_gold = (_TEXT_COMMAND.sub(r"\1", text).strip(" .") for text in (answer, gold))
    spelled_out = _SPELLED_OUT.search(plain_gold) is not None or plain_gold.casefold() == "no"
    if plain_answer.casefold() == plain_gold.casefold() and spelled_out and plain_gold.replace(" ", "").isalnum():
        return verdict(True)
    known = _by_reading(answer, gold)
    if known is not None:
        return verdict(known)
    if opposed(answer, gold):
        return verdict(False)
    letter = _LETTER.fullmatch(plain_gold)
    return _by_decimals(answer, gold) or (_by_letter(plain_answer, letter.group(1)) if letter else None)


def _by_reading(answer: str, gold: str) -> bool | None:
    """Times, dates, measures in two units and phrases, read as wholes; None where not both are one."""
    times = time_of_day(answer), time_of_day(gold)
    if None not in times and any(time.written_out for time in times):
        return times[0].same(times[1])
    dates = date(answer), date(gold)
    if None not in dates:
        return dates[0].says(dates[1])
    for known in (same_phrase, same_counts, same_measure, same_choices):
        same = known(answer, gold)
        if same is not None:
            return same
    return None


def _by_decimals(answer: str, gold: str) -> Verdict | None:
    """3,14 against 3.14; None where they are not written so."""
    answer, gold = (text.replace(".", "") if _EUROPEAN.fullmatch(text) else text for text in (answer, gold))
    for comma, point in ((answer, gold), (gold, answer)):
        if _DECIMAL_COMMA.fullmatch(comma) and _DECIMAL_POINT.fullmatch(point):
            return verdict(Fraction(comma.replace(",", ".")) == Fraction(point))
    return None


def _by_letter(answer: str, letter: str) -> Verdict | None:
    """A letter of a choice against `(C)` and `Option C`; None where the answer is none of these."""
    alone = _CHOICE.fullmatch(answer)
    return verdict(alone.group(1) == letter) if alone and alone.group(1).isupper() else None
