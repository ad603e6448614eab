"""Words that change what a value says, and text without the commands that only set it as text."""

import re

_NOT_A_LABEL = """
    not no non nobody none never neither nor
    cannot cant isnt arent wont doesnt dont without unless except excepting excluding excluded exclude
    other otherwise different differs unequal wrong incorrect false untrue invalid rejected reject extraneous discard discarded ignore
    ignoring instead rather unlike opposite contrary counterexample hypothetical maybe perhaps possibly possible probably guess guesses
    guessing either or if else versus vs least most more less fewer greater smaller larger bigger higher lower over under above below
    beyond beneath between within up almost nearly half halves twice thrice double doubled triple tripled quadruple square squared
    squares cube cubed root reciprocal inverse negative minus plus times multiple multiples divisible factor factors divisor divisors
    multiplied divided mod modulo complement bound tens hundred hundreds thousand thousands million millions billion billions dozen lakh
    lakhs crore crores percent decrease decreased decreasing loss lost drop reduction decline anything everything nothing something but
    all any error impossible initial initially old previous previously before estimate estimated hint step remainder
    """
CHANGING = frozenset(_NOT_A_LABEL.split())
"""No label or remark that holds one of these is left out: the value would not say the same without it."""

TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{\s*"
"""The beginning of words that are set as text."""
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathsf|mbox|operatorname)\s*\{([^{}]*)\}")
_SUPERLATIVE = re.compile(
    r"(?<!\bat )\bleast (?:(?:possible|positive|common) )*(?:value|number|integer|multiple|area|length|distance|amount|cost)\b"
    r"|\b(?:largest|greatest|smallest|maximum|minimum|number of) possible [a-z]{4,}|\bgreatest common (?:divisor|factor)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def plain(text: str) -> str:
    """Without the commands that set words as text; single spaces."""
    if "\\" in text:
        text = _WRAPPER.sub(r" \1 ", _WRAPPER.sub(r" \1 ", text))
    return " ".join(text.split())


def words_of(text: str) -> list[str]:
    """Its words in small letters, apostrophes left out."""
    return [word.lower().replace("'", "") for word in _WORD.findall(text)]


def changes(text: str) -> bool:
    """Whether a word in it changes what stands beside it; the least value and the greatest common divisor are names."""
    return any(word in CHANGING for word in words_of(_SUPERLATIVE.sub(" ", text)))
