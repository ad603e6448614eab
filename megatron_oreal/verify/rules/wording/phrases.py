"""Whole answers in words: yes and no with their reasons, and phrases that mean the same."""

import re

from megatron_oreal.verify.rules.wording.vocabulary import plain, words_of

_SAME = {
    "does not exist": "dne|doesnt exist|do not exist|limit does not exist|limit doesnt exist|non existent|nonexistent|it does not exist",
    "infinitely many": "infinitely many solutions|infinite solutions|infinite number of solutions|infinite|infinitely many real solutions"
    "|an infinite number of solutions|an infinite number|infinite many|infinite many solutions",
    "no solution": "no solutions|no real solution|no real solutions|there is no solution|there are no solutions|no solution exists"
    "|no solutions exist|there is no real solution|there are no real solutions|empty set|null set|has no solution|has no solutions"
    "|no such solution exists|none exist|none|no roots|no such numbers exist|there are no such numbers|no such number exists"
    "|no real roots|no real root",
    "undefined": "not defined|is undefined|is not defined",
    "diverges": "divergent|diverge|is divergent|it diverges",
    "converges": "convergent|converge|is convergent|it converges",
    "converges absolutely": "absolutely convergent|absolute convergence",
    "converges conditionally": "conditionally convergent|conditional convergence",
    "neither": "neither even nor odd|neither odd nor even",
    "first quadrant": "quadrant i|quadrant one", "second quadrant": "quadrant ii|quadrant two",
    "third quadrant": "quadrant iii|quadrant three", "fourth quadrant": "quadrant iv|quadrant four",
    "true": "t",
    "false": "f",
    "cannot be determined": "can not be determined|not enough information|cannot determine|insufficient information|indeterminate",
}  # fmt: skip
_CANONICAL = {spelling: meaning for meaning, others in _SAME.items() for spelling in (meaning, *others.split("|"))}
_NO_SUCH = re.compile(r"(?:there (?:is|are|exists?) )?no such (?:[a-z]|[a-z ]{3,30}?)(?: exists?)?\.?", re.IGNORECASE)
_ROMAN = re.compile(r"\b(?:I{1,3}|IV|V)\b")
_STATEMENTS = re.compile(r"(?:statements? )?(?:I{1,3}|IV|V)(?:(?:\s*,\s*and\s+|\s*,\s*|\s+and\s+|\s*&\s*)(?:I{1,3}|IV|V))+")
_ONLY = re.compile(r"\s+only$")
_WORDS_ALONE = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z' -]*[.]?")
_IDLE_WORDS = frozenset(
    ["the", "a", "an", "all", "it", "is", "they", "are", "there", "of", "number", "numbers", "angled", "has", "winning", "strategy", "game"]
)
_KINDS = frozenset(["triangle", "quadrilateral", "function", "condition", "sequence", "win", "line", "player"])
"""What a question says already of its answer: isosceles (triangle), Alice (wins)."""
_ADJECTIVES = frozenset(
    ["even", "odd", "positive", "negative", "nonzero", "nonnegative", "real", "rational", "irrational", "prime", "integer", "right"]
    + ["isoscele", "equilateral", "acute", "obtuse"]
)
"""Without the s at their end. Their order says nothing: positive even integers."""
_IDLE = frozenset(("the", "a", "an", "equation", "system", "series", "sequence"))
_YES_OR_NO = re.compile(r"(yes|no|true|false)\s*(?:[,.;:!(-]|$)(.*)", re.IGNORECASE | re.DOTALL)
_REFUSED = re.compile(r"\b(?:yes|no|true|false|or|maybe|perhaps|unless|except|but|wrong)\b", re.IGNORECASE)


def same_phrase(answer: str, gold: str) -> bool | None:
    """Whether two answers in words say the same; None where this is not known."""
    answer, gold = plain(answer), plain(gold)
    said, wanted = _yes_or_no(answer), _yes_or_no(gold)
    if said and wanted:
        return said == wanted if said in ("yes", "no") or wanted in ("true", "false") else None
    statements = _statements(answer), _statements(gold)
    if all(statements):
        return statements[0] == statements[1]
    one, other = _meaning(answer), _meaning(gold)
    if one and other:
        return one == other
    said, wanted = _bare(answer), _bare(gold)
    return True if said and said == wanted else None


def _bare(text: str) -> list[str]:
    """Its words without articles, plurals and a kind at the end; empty where it is not words alone."""
    if not _WORDS_ALONE.fullmatch(text):
        return []
    words = [word.removesuffix("s") for word in words_of(text) if word not in _IDLE_WORDS]
    while len(words) > 1 and words[-1] in _KINDS:
        words.pop()
    return sorted(words) if _ADJECTIVES.issuperset(words) else words


def _yes_or_no(text: str) -> str | None:
    """The word that opens the answer; what follows may only explain it."""
    match = _YES_OR_NO.fullmatch(text.strip())
    if match is None or _REFUSED.search(match.group(2)):
        return None
    return match.group(1).lower()


def _statements(text: str) -> frozenset | None:
    """I and III, and the like: statements by their Roman numbers."""
    text = _ONLY.sub("", text)
    return frozenset(_ROMAN.findall(text)) if _STATEMENTS.fullmatch(text) else None


def _meaning(text: str) -> str | None:
    if text.strip() in ("\\emptyset", "\\varnothing"):
        return "no solution"
    if any(c.isdigit() or c in "\\=<>" for c in text):
        return None
    if _NO_SUCH.fullmatch(text):
        return "no solution"
    return _CANONICAL.get(" ".join(word for word in words_of(text) if word not in _IDLE))
