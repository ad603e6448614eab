"""Words after a value: which of them are units, and which name the same unit."""

import re

from megatron_oreal.verify.rules.reading.vocabulary import words as _words

_SAME = {
    "m": "meter meters metre metres", "cm": "centimeter centimeters centimetre centimetres",
    "dm": "decimeter decimeters decimetre decimetres", "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres kms",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards yds", "mi": "mile miles", "mph": "", "mpg": "", "kph": "kmh", "acre": "acres",
    "g": "gram grams", "kg": "kilogram kilograms kgs kilo kilos", "mg": "milligram milligrams", "lb": "lbs pound pounds",
    "oz": "ounce ounces", "ton": "tons tonne tonnes", "s": "sec secs second seconds", "min": "mins minute minutes",
    "h": "hr hrs hour hours", "day": "days", "week": "weeks wk wks", "month": "months", "year": "years yr yrs",
    "l": "liter liters litre litres", "ml": "milliliter milliliters millilitre millilitres", "gal": "gallon gallons",
    "qt": "quart quarts", "pt": "pint pints", "cup": "cups", "dollar": "dollars usd bucks", "cent": "cents penny pennies",
    "euro": "euros eur", "sterling": "gbp", "pence": "", "yen": "jpy", "rupee": "rupees rs", "yuan": "rmb",
    "percent": "pct percentage", "degree": "degrees deg", "radian": "radians rad",
    "hz": "hertz", "n": "newton newtons", "j": "joule joules", "w": "watt watts", "v": "volt volts",
    "a": "amp amps ampere amperes", "pa": "pascal pascals", "k": "kelvin kelvins", "ohm": "ohms", "mol": "mole moles",
    "c": "celsius", "f": "fahrenheit",
    "am": "", "pm": "",
}  # fmt: skip
CANONICAL = {word: name for name, words in _SAME.items() for word in (name, *words.split())}
"""Spelling -> canonical name, for units whose difference matters."""

SHORT_UNITS = _words(
    """cm mm km ft yd mi kg mg lb lbs oz hr hrs min mins sec secs ml gal qt pt mph mpg kph hz pa mol rad deg am pm kms yds kgs wk wks
    yr yrs in st nd rd th pct"""
)
"""Spelled without \\text, these letters after a number are a unit and not a product of variables."""

_NOT_UNITS = _words(
    """is are was were be been not no nor isnt arent wrong right correct incorrect or and but if when where then else than more less most
    least about approximately approx roughly around nearly almost maybe perhaps possibly either neither unless except otherwise
    instead versus vs only all any some none other others another until between from to with without such that this these those
    which who what how why because since so as it its may might can cannot could should would will at plus minus divided mod
    modulo infinity undefined true false yes answer hundred thousand million billion trillion squared cubed factorial choose over
    january february march april june july august september october november december monday tuesday wednesday thursday friday
    saturday sunday negative point below above under fewer score gross tens hundreds thousands millions billions hundredth
    thousandth half root radical inverse reciprocal remainder rem upward upwards onward onwards beyond bc bce short deficit
    loss decrease decreased drop reduction debt down decline unlike untrue nope impossible invalid rejected extraneous too guess
    guessing digits base basis wrongly bn mn overdraft owed doubled tripled halved fails fail failed overdrawn ago younger lower
    cheaper higher mega milli micro nano giga millionth millionths billionth billionths
    one two three four five six seven eight nine ten twelve noon midnight
    nil ish mil backward backwards behind dozens myriad grand quarter mille deci centi"""
)
_ORDINALS = _words("third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth twentieth fiftieth")
_PHRASES = {("left", "over"), ("from", "now")}
"""Words that say where a thing stands, and change no value together: 5 marbles left over."""
_MAX_WORDS = 5


_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_BEHIND = {"squared": 2, "cubed": 3}
_COMPOUND = {"mph": {"mi": 1, "h": -1}, "mpg": {"mi": 1, "gal": -1}, "kph": {"km": 1, "h": -1}}
_ATOM = re.compile(r"(?:\\(?:mu|Omega|circ)\s*)?[a-zA-Z]+\.?|\^\s*\{?\s*(-?\d)\s*\}?|/|\(|\)|\\cdot|\*|\\,|\s+|-(?=[a-zA-Z])|~")
_CURRENCIES = frozenset(("dollar", "cent", "euro", "sterling", "yen", "rupee", "yuan"))


def is_unit(words: list[str]) -> bool:
    """Whether words after a value may be left out: known units, or up to five words none of which makes a statement."""
    plain = [word.lower() for word in words if word[:1].isalpha()]
    if words in (["k"], ["M"]):  # thousands, millions, or a letter
        return False
    for before, word, after in zip(["", *plain], plain, [*plain[1:], ""], strict=False):
        power = word in _POWERS_BEHIND and (before in CANONICAL or before in ("unit", "units"))
        if word in _NOT_UNITS and not power and (before, word) not in _PHRASES and (word, after) not in _PHRASES:
            return False
    return len(plain) <= _MAX_WORDS and (not plain or plain[-1].removesuffix("s") not in _ORDINALS)


def unit_expression(text: str) -> list[str] | None:
    """The parts of a unit set as one text, `m^{2}`, `J/(mol K)`, `m\\,s^{-2}`; None where it is none, or one plain word."""
    parts, position = [], 0
    while position < len(text):
        match = _ATOM.match(text, position)
        if match is None or len(parts) > 4 * _MAX_WORDS:
            return None
        position = match.end()
        token = match.group().strip(" ~").rstrip(".")
        if token and token not in ("\\,", "\\cdot", "*", "-"):
            parts.append(match.group(1) if match.group(1) else token.lstrip("\\"))
    if not any(part in "/()" or part.lstrip("-").isdigit() for part in parts) or not parts[0][0].isalpha():
        return None
    known = [part for part in parts if part[0].isalpha() and part != "per"]
    return parts if all(part in CANONICAL or part.lower() in CANONICAL or len(part) > 3 for part in known) else None


def canonical_unit(words: list[str]) -> str:
    """One spelling for a unit; unknown words and "units" give "" (their difference does not matter), money per anything is money."""
    powers: dict[str, int] = {}
    sign, power, last = 1, 1, ""
    for word in (word.lower() for word in words):
        if word in ("/", "per"):
            sign = -1
            if last in _CURRENCIES:
                return last
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in _POWERS_BEHIND or word.lstrip("-").isdigit():
            exponent = _POWERS_BEHIND.get(word) or int(word)
            for name in _COMPOUND.get(last, {last} - {""}):
                powers[name] *= exponent
        elif word not in ("*", "-", "(", ")"):
            last = CANONICAL.get(word, "")
            if not last:
                return ""
            for name, exponent in _COMPOUND.get(last, {last: 1}).items():
                powers[name] = powers.get(name, 0) + sign * power * exponent
            power = 1
    return _written({name: exponent for name, exponent in powers.items() if exponent})


def _written(powers: dict[str, int]) -> str:
    """m2 for an area, m·s^-1 for a speed."""
    if len(powers) == 1:
        ((name, exponent),) = powers.items()
        return name if exponent == 1 else f"{name}{exponent}"
    return "·".join(f"{name}^{exponent}" for name, exponent in sorted(powers.items()))
