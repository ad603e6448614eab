"""Numbers in words, and words that scale a number: three-fourths, two and a half, 7 lakh, 7 out of 10, 7 degrees below zero."""

import re
from fractions import Fraction

from megatron_oreal.verify.rules.reading.numerals import SCALES, spelled
from megatron_oreal.verify.rules.reading.units import is_unit
from megatron_oreal.verify.rules.wording.vocabulary import plain

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[a-zA-Z]+|-|\S")
_PART_NAMES = [
    "half",
    "third",
    "fourth",
    "quarter",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "twelfth",
    "sixteenth",
    "twentieth",
    "hundredth",
    "thousandth",
]
_PARTS = dict(zip(_PART_NAMES, (2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 100, 1000), strict=True))
_PLURALS = {"halves": 2} | {name + "s": value for name, value in _PARTS.items()}
_SCALES = {"dozen": 12, "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7, "hundred": 100, "thousand": 1000, "million": 10**6}
_TEENS = {
    word: spelled([word])
    for word in ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
}
_DIGITS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "oh": 0}
_BELOW = re.compile(r"(.*?)\s*(?:\b(?:degrees?|\\circ)\b|\^\s*\{?\s*\\circ\s*\}?)?\s*\bbelow zero", re.DOTALL)
_FIGURES = re.compile(r"\d{1,20}(?:\.\d{1,20})?")
_MINUS = re.compile(r"(?:minus|negative)\s+(?=[\d\\])", re.IGNORECASE)
_PER_CENT = re.compile(r"([a-zA-Z -]+?)\s*per\s?cent", re.IGNORECASE)
_OUT_OF = re.compile(r"(\S+) (?:out of|in|of every|in every) (\S+)")
_WORDS_ALONE = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)+\.?")
MAX_WORDS = 14


def with_numbers_in_figures(text: str) -> str:
    """An answer that is a number in words, in figures; any other as it is."""
    if not any(c.isalpha() for c in text):
        return text
    words = plain(text)
    below = _BELOW.fullmatch(words)
    if below:
        value = _size(below.group(1).strip())
        return text if value is None else _written(-value)
    negated = _MINUS.match(words)
    if negated:
        return "-" + words[negated.end() :] if words[negated.end() :].count(" ") == 0 else text
    per_cent = _PER_CENT.fullmatch(words)
    value = _value(per_cent.group(1) if per_cent else words)
    if value is None:
        return text
    return _written(value) + (r"\%" if per_cent else "")


def count_of_things(text: str) -> str | None:
    """three hours, forty-two students: the number in figures, its unit behind it."""
    words = plain(text)
    if not _WORDS_ALONE.fullmatch(words) or _value(words) is not None:
        return None
    parts = words.split()
    for cut in range(min(len(parts) - 1, MAX_WORDS), 0, -1):
        value = None if parts[cut - 1] == "and" else _value(" ".join(parts[:cut]))
        if value is not None:
            return rf"{_written(value)} \text{{ {' '.join(parts[cut:])}}}" if is_unit(parts[cut:]) else None
    return None


def _size(text: str) -> Fraction | None:
    """Of a number in figures or in words, not negative."""
    if _FIGURES.fullmatch(text):
        return Fraction(text)
    value = _value(text)
    return value if value is None or value >= 0 else None


def _written(value: Fraction) -> str:
    sign, value = ("-" if value < 0 else ""), abs(value)
    return f"{sign}{value.numerator}" if value.denominator == 1 else rf"{sign}\frac{{{value.numerator}}}{{{value.denominator}}}"


def _value(text: str) -> Fraction | None:
    """Of a text that is a number in words from its first word to its last; None for plain figures and all else."""
    tokens = [token.lower() for token in _TOKEN.findall(text)]
    if not tokens or len(tokens) > MAX_WORDS or any(not (token[0].isalnum() or token == "-") for token in tokens):
        return None
    if tokens[0] in ("minus", "negative"):
        value = _value(" ".join(tokens[1:]))
        return None if value is None else -value
    share = _OUT_OF.fullmatch(text.strip().lower())
    if share:
        top, bottom = _whole([share.group(1)]), _whole([share.group(2)])
        return Fraction(top, bottom) if top is not None and bottom else None
    if tokens[0] == "-":
        return None
    if len(tokens) > 1 and tokens[0] == "a" and tokens[1] in SCALES:
        tokens[0] = "one"
    return _with_fraction([token for token in tokens if token != "-"])


def _with_fraction(tokens: list[str]) -> Fraction | None:
    """two and a half, three fourths, 7 tenths, half, zero point five, seven dozen, seventy."""
    if "and" in tokens:
        cut = tokens.index("and")
        whole, part = _whole(tokens[:cut]), _fraction(tokens[cut + 1 :])
        if whole is not None and part is not None and 0 < part < 1:
            return whole + part
    if "point" in tokens:
        return _decimal(tokens)
    part = _fraction(tokens)
    if part is not None:
        return part
    if len(tokens) > 1 and tokens[-1] in _SCALES and tokens[-1] not in SCALES:
        many = Fraction(1) if tokens[:-1] == ["a"] else _number(tokens[:-1])
        return None if many is None else many * _SCALES[tokens[-1]]
    whole = _whole(tokens)
    return None if whole is None or tokens[0][0].isdigit() else Fraction(whole)


def _fraction(tokens: list[str]) -> Fraction | None:
    if tokens in (["half"], ["a", "half"], ["one", "half"], ["1", "half"]):
        return Fraction(1, 2)
    if len(tokens) < 2 or (tokens[-1] not in _PLURALS and tokens[-1] not in _PARTS):
        return None
    count = 1 if tokens[:-1] == ["a"] else _whole(tokens[:-1])
    plural = tokens[-1] in _PLURALS
    if count is None or (count == 1) == plural:
        return None
    return Fraction(count, _PLURALS.get(tokens[-1]) or _PARTS[tokens[-1]])


def _decimal(tokens: list[str]) -> Fraction | None:
    cut = tokens.index("point")
    whole = _whole(tokens[:cut]) if cut else 0
    if whole is None or not tokens[cut + 1 :] or any(token not in _DIGITS for token in tokens[cut + 1 :]):
        return None
    return Fraction(f"{whole}.{''.join(str(_DIGITS[token]) for token in tokens[cut + 1 :])}")


def _whole(tokens: list[str]) -> int | None:
    if len(tokens) == 1 and tokens[0].isdigit():
        return int(tokens[0])
    if len(tokens) == 2 and tokens[1] in ("hundred", "hundreds") and tokens[0] in _TEENS:
        return 100 * _TEENS[tokens[0]]
    return spelled([token for token in tokens if token != "and"]) if tokens else None


def _number(tokens: list[str]) -> Fraction | None:
    if len(tokens) == 1 and tokens[0][0].isdigit():
        return Fraction(tokens[0])
    whole = _whole(tokens)
    return None if whole is None else Fraction(whole)
