"""Numbers written with signs and words: 1.6e-19, 0.1\\overline{6}, 0.333..., twenty-five, 204 in base five."""

import re
from fractions import Fraction

from megatron_oreal.verify.rules.reading.lexer import CannotRead
from megatron_oreal.verify.rules.syntax import Based

MAX_EXPONENT_OF_TEN = 3000
_REPEATING = re.compile(r"(\d*)\.?(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?(?:(\d*\\dot\{?\d)\}?)?")
_BRACKETED_PERIOD = re.compile(r"(\d*)\.()\((\d+)\)")
_DOTTED = re.compile(r"(\d*)\.(\d+)(?:\.\.\.|\\l?dots)")

_SPELLED = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
_SPELLED_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES = {word: value for value, word in enumerate(_SPELLED.split())}
_TENS = {word: 10 * value for value, word in enumerate(_SPELLED_TENS.split(), start=2)}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES_OF_PARTS = {
    name: 1 / Fraction(value)
    for names, value in (
        ("halves", 2), ("thirds", 3), ("fourths quarters", 4), ("fifths", 5), ("sixths", 6), ("sevenths", 7), ("eighths", 8), ("ninths", 9),
        ("tenths", 10), ("twelfths", 12), ("sixteenths", 16), ("twentieths", 20), ("hundredths", 100), ("thousandths", 1000),
        ("lakh lakhs", Fraction(1, 10**5)), ("crore crores", Fraction(1, 10**7)), ("dozen", Fraction(1, 12)),
    )
    for name in names.split()
}  # fmt: skip
"""Words behind a number in figures that scale it: 7 tenths, 7 lakh."""
_BASES = _ONES | {"binary": 2, "octal": 8, "hexadecimal": 16}

_WRAPPED = r"(?:\\(?:text|mathrm|textrm|mathbf)\s*\{\s*|\{\s*|\(\s*)*"
_BASED = re.compile(
    rf"(-?)\s*{_WRAPPED}([0-9A-Z]+|[0-9a-f]*[0-9][0-9a-f]*)\s*[)}}]*\s*"
    rf"(?:_\s*{_WRAPPED}|(?:\\text\s*\{{\s*)?\(?\s*(?:in )?base[ -]?(?:\s*\}})?)\s*(\d{{1,2}}|[a-z]{{3,11}})\s*[)}}\s]*"
)


def number(text: str) -> Fraction:
    """Exact value of a number token. Raises CannotRead where it has none (a period that cannot be seen) or a huge exponent."""
    text = text.replace(",", "").replace(" ", "")
    repeating = _REPEATING.fullmatch(text) or _BRACKETED_PERIOD.fullmatch(text)
    if repeating:
        rest = repeating.group(4) if repeating.re is _REPEATING else None
        return _repeating(repeating, repeating.group(3) + "".join(c for c in rest or "" if c.isdigit()))
    dotted = _DOTTED.fullmatch(text)
    if dotted:
        return _dotted(*dotted.groups())
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > MAX_EXPONENT_OF_TEN:
        raise CannotRead("an exponent of ten beyond reading")
    return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)


def _repeating(match: re.Match, period: str) -> Fraction:
    if "." not in match.group():
        raise CannotRead("a repeating number without a point")
    whole, fixed = match.group(1) or "0", match.group(2)
    tail = Fraction(int(period), 10 ** len(period) - 1)
    return Fraction(int(whole)) + (Fraction(int(fixed or "0")) + tail) / 10 ** len(fixed)


def _dotted(whole: str, digits: str) -> Fraction:
    """0.333... and 0.1666...: the shortest period that the last digits show twice (three times where it is one digit)."""
    for length in range(1, len(digits) // 2 + 1):
        period, times = digits[-length:], 3 if length == 1 else 2
        if digits.endswith(period * times):
            fixed = digits[: -length * times]
            return Fraction(int(whole or "0")) + (Fraction(int(fixed or "0")) + Fraction(int(period), 10**length - 1)) / 10 ** len(fixed)
    raise CannotRead("a number whose digits go on unseen")


def spelled(parts: list[str]) -> int | None:
    """Value of number words (`twenty five`, `three hundred and two`), or None where one of them is none."""
    total = group = 0
    seen = False
    for word in parts:
        units = group % 100
        if (word in _TENS and units == 0) or (word in _ONES and (units == 0 or (units in _TENS.values() and 0 < _ONES[word] < 10))):
            group, seen = group + _ONES.get(word, _TENS.get(word, 0)), True
        elif word in SCALES and seen:
            group = group * SCALES[word]
            if word != "hundred":
                total, group = total + group, 0
        else:
            return None
    return total + group if seen else None


def based(text: str) -> Based | None:
    """Digits with their base as subscript or in words: 1A_{16}, 204_{\\text{five}}, 101 \\text{ (base 2)}; None for all else."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    sign, digits, base = match.groups()
    base = int(base) if base.isdigit() else _BASES.get(base, 0)
    known = any(c.isdigit() for c in digits) or (len(digits) > 1 and 11 <= base <= 36 and all(int(c, 36) < base for c in digits))
    return Based(digits.upper().lstrip("0") or "0", base, bool(sign)) if known and 2 <= base <= 99 else None
