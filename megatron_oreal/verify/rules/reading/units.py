"""Words after a value: which of them are units, and which name the same unit."""

from megatron_oreal.verify.rules.reading.vocabulary import words as _words

_SAME = {
    "m": "meter meters metre metres", "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres", "km": "kilometer kilometers kilometre kilometres kms",
    "in": "inch inches", "ft": "foot feet", "yd": "yard yards yds", "mi": "mile miles", "mph": "mi/h", "acre": "acres",
    "g": "gram grams", "kg": "kilogram kilograms kgs kilo kilos", "mg": "milligram milligrams", "lb": "lbs pound pounds",
    "oz": "ounce ounces", "ton": "tons tonne tonnes", "s": "sec secs second seconds", "min": "mins minute minutes",
    "h": "hr hrs hour hours", "day": "days", "week": "weeks wk wks", "month": "months", "year": "years yr yrs",
    "l": "liter liters litre litres", "ml": "milliliter milliliters millilitre millilitres", "gal": "gallon gallons",
    "qt": "quart quarts", "pt": "pint pints", "cup": "cups", "dollar": "dollars usd bucks", "cent": "cents penny pennies",
    "euro": "euros eur", "sterling": "gbp", "yen": "jpy", "rupee": "rupees rs", "yuan": "rmb",
    "percent": "pct percentage", "degree": "degrees deg", "radian": "radians rad",
    "hz": "hertz", "n": "newton newtons", "j": "joule joules", "w": "watt watts", "v": "volt volts",
    "a": "amp amps ampere amperes", "pa": "pascal pascals", "mol": "mole moles", "c": "celsius", "f": "fahrenheit",
    "am": "", "pm": "",
}  # fmt: skip
CANONICAL = {word: name for name, words in _SAME.items() for word in (name, *words.split())}
"""Spelling -> canonical name, for units whose difference matters."""

SHORT_UNITS = _words(
    """cm mm km ft yd mi kg mg lb lbs oz hr hrs min mins sec secs ml gal qt pt mph kph hz pa mol rad deg am pm kms yds kgs wk wks
    yr yrs in st nd rd th pct"""
)
"""Spelled without \\text, these letters after a number are a unit and not a product of variables."""

_NOT_UNITS = _words(
    """is are was were be been not no nor isnt arent wrong right correct incorrect or and but if when where then else than more less
    most least about approximately approx roughly around nearly almost maybe perhaps possibly either neither unless except otherwise
    instead versus vs only all any some none other others another until between from to with without such that this these those
    which who what how why because since so as it its may might can cannot could should would will at plus minus times divided mod
    modulo infinity undefined true false yes answer hundred thousand million billion trillion dozen squared cubed factorial choose over
    negative point"""
)
_MAX_WORDS = 5


def is_unit(words: list[str]) -> bool:
    """Whether words after a value may be left out: known units, or up to five words none of which makes a statement."""
    plain = [word.lower() for word in words]
    return len(plain) <= _MAX_WORDS and not any(word in _NOT_UNITS for word in plain)


def canonical_unit(words: list[str]) -> str:
    """One spelling for a unit; unknown words and "units" give "" (their difference does not matter)."""
    plain = [word.lower() for word in words]
    power = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(plain[0], "") if plain else ""
    plain = plain[1:] if power else plain
    if "per" in plain:
        cut = plain.index("per")
        plain = [*plain[:cut], "/", *plain[cut + 1 :]]
    parts = [CANONICAL.get(word, word if not word.isalpha() else "") for word in plain]
    if not parts or any(part == "" for part in parts):
        return ""
    name = "".join(parts) + power
    return CANONICAL.get(name, name)
