"""Measures in two units: 2 h 30 min, 5 feet 6 inches; against one in a single unit of the same kind."""

import re
from fractions import Fraction

from megatron_oreal.verify.rules.reading.units import CANONICAL
from megatron_oreal.verify.rules.wording.vocabulary import plain

_KINDS = (
    {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    {"in": 1, "ft": 12, "yd": 36, "mi": 63360},
    {"oz": 1, "lb": 16},
    {"mm": 1, "cm": 10, "m": 1000, "km": 1_000_000},
    {"mg": 1, "g": 1000, "kg": 1_000_000, "ton": 1_000_000_000},
    {"ml": 1, "l": 1000},
    {"pt": 1, "qt": 2, "gal": 8},
    {"month": 1, "year": 12},
    {"pence": 1, "sterling": 100},
    {"cent": 1, "dollar": 100},
)
_FRACTION = r"\\d?frac\s*\{?\s*\d{1,6}\s*\}?\s*\{?\s*\d{1,6}\s*\}?"
_NUMBER = rf"\d{{1,6}}/\d{{1,6}}|\d{{1,9}}(?:\.\d{{1,9}})?(?:\s*{_FRACTION}|\s+\d{{1,6}}/\d{{1,6}})?|{_FRACTION}"
_PART = re.compile(rf"\s*(?:(?:,|and|&)\s*)*({_NUMBER})\s*(?:-|\\,|\\ |~)*\s*([a-zA-Z]+|\"|''|')\.?")
_SHORT_FRACTION = re.compile(r"frac\s*(\d)\s*(\d)(?!\d)")
_COUNT = r"(\d{1,9}(?:\.\d{1,9})?) ([a-zA-Z]{3,20})"
_COUNTS = re.compile(rf"{_COUNT}(?:(?:,| and|, and) {_COUNT})+")
_STATED = r"([a-zA-Z]{2,20}) ?[:=] ?(\$?-?\d{1,9}(?:\.\d{1,9})?)"
_STATEMENTS = re.compile(rf"{_STATED}(?:(?:,|;| and|, and) {_STATED})+")
_MONEY = re.compile(r"^\\?\$\s*(\d{1,9}(?:\.\d\d)?)$")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_STROKES = {"'": "ft", '"': "in", "''": "in"}
_MAY_CHANGE = (0, *range(len(_KINDS) - 3, len(_KINDS)))
"""Times and money may change their unit alone: 90 minutes and 1.5 hours, 75 cents and $0.75."""
MAX_PARTS = 4


def same_measure(answer: str, gold: str) -> bool | None:
    """Whether two measures, one of them in several units, are the same; None where they are not written so."""
    one, other = _measure(answer), _measure(gold)
    if one is None or other is None or (max(one[2], other[2]) < 2 and one[0] not in _MAY_CHANGE):
        return None
    return one[:2] == other[:2]


def same_counts(answer: str, gold: str) -> bool | None:
    """3 boys and 4 girls, Alice: 3, Bob: 5: each number with its noun; None where not both are such, or of other nouns."""
    one, other = _counts(answer), _counts(gold)
    return one == other if one and other and set(one) == set(other) else None


def _counts(text: str) -> dict[str, str]:
    text = plain(text).strip(". ")
    if _COUNTS.fullmatch(text):
        pairs = [(noun, number) for number, noun in re.findall(_COUNT, text)]
    elif _STATEMENTS.fullmatch(text):
        pairs = re.findall(_STATED, text)
    else:
        return {}
    counts = {noun.lower().removesuffix("s"): number for noun, number in pairs}
    return counts if len(counts) == len(pairs) else {}


def _measure(text: str) -> tuple[int, Fraction, int] | None:
    """Kind, value in the smallest unit of the kind, and number of parts."""
    text = _SHORT_FRACTION.sub(r"frac{\1}{\2}", text)
    text = _MONEY.sub(r"\1 dollars", plain(text).replace("\\circ", ""))
    position, parts = 0, []
    while position < len(text) and len(parts) <= MAX_PARTS:
        match = _PART.match(text, position)
        if match is None:
            return None
        parts.append((_number(match.group(1)), _unit(match.group(2))))
        position = match.end()
    kinds = {number for _, unit in parts for number, kind in enumerate(_KINDS) if unit in kind}
    if len(kinds) != 1 or any(unit not in _KINDS[min(kinds)] for _, unit in parts):
        return None
    scale = _KINDS[kinds.pop()]
    sizes = [scale[unit] for _, unit in parts]
    if any(value is None for value, _ in parts) or any(later >= size for size, later in zip(sizes, sizes[1:], strict=False)):
        return None
    return _KINDS.index(scale), sum((value * size for (value, _), size in zip(parts, sizes, strict=True)), Fraction(0)), len(parts)


def _unit(word: str) -> str:
    return _STROKES.get(word) or CANONICAL.get(word.lower(), word)


def _number(text: str) -> Fraction | None:
    parts = [Fraction(part) for part in _DIGITS.findall(text)]
    if len(parts) == 1:
        return parts[0]
    whole, (top, bottom) = (parts[0], parts[1:]) if len(parts) == 3 else (Fraction(0), parts)
    return whole + top / bottom if bottom else None
