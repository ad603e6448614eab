"""Sets in words and in bare braces: all real numbers except 2, at least 3, {x | x > 2}."""

import re

from megatron_oreal.verify.rules.wording.families import family_in_words
from megatron_oreal.verify.rules.wording.vocabulary import plain

_REALS = r"(?:the set of )?(?:all )?(?:the )?(?:real numbers|reals|real values|real|numbers)(?: (?:of )?[a-z])?"
_EXCEPT = re.compile(
    rf"(?:{_REALS}|(?P<whole>(?:all )?(?:the )?integers)),? (?:except(?: for)?|but|other than|excluding|not equal to"
    r"|except when) (?:[a-z] ?= ?)?(?P<left>.+)",
    re.IGNORECASE,
)
_SUCH_THAT = re.compile(
    rf"(?:{_REALS}|all|all real|all values of|the set of all) ?[a-z]?,? (?:such that|with|for which|where) (?P<condition>.*[<>=\\].*)"
)
_COMPARED = re.compile(
    rf"(?:(?:{_REALS}|[a-z])(?: (?:is|are|that are|which are))? )?"
    r"(?P<way>greater than or equal to|less than or equal to|greater than|less than|at least|at most|more than|no less than|no more than"
    r"|not less than|not more than|smaller than|larger than|bigger than|fewer than) (?P<bound>[^,]+)",
    re.IGNORECASE,
)
_WAYS = {
    "greater than": ">", "more than": ">", "larger than": ">", "bigger than": ">", "less than": "<", "smaller than": "<", "fewer than": "<",
    "at least": r"\ge", "greater than or equal to": r"\ge", "no less than": r"\ge", "not less than": r"\ge",
    "at most": r"\le", "less than or equal to": r"\le", "no more than": r"\le", "not more than": r"\le",
}  # fmt: skip
_BETWEEN = re.compile(rf"(?:{_REALS} )?between ([^ ]+) and ([^ ]+?),? (inclusive|exclusive)", re.IGNORECASE)
_FROM_TO = re.compile(rf"{_REALS} from ([^ ]+) to ([^ ]+)(?:,? inclusive)?", re.IGNORECASE)
_SIGNED = re.compile(
    r"(?:the set of )?(?:all )?(?:the )?"
    r"(?P<sign>positive|negative|non-?negative|non-?positive|nonzero|non-zero) (?:real numbers|reals|real values)",
    re.IGNORECASE,
)
_OF_SIGN = {
    "positive": r"(0, \infty)", "negative": r"(-\infty, 0)", "nonnegative": r"[0, \infty)", "nonpositive": r"(-\infty, 0]",
    "nonzero": r"(-\infty, 0) \cup (0, \infty)",
}  # fmt: skip
_WHOLE = re.compile(
    r"(?:the set of )?(?:all |every |any )?(?:the )?(?P<kind>integers?|positive integers?|natural numbers?)(?: [a-z])?", re.IGNORECASE
)
_OF_WHOLE = {
    spelling: symbol
    for kind, symbol in (("integer", r"\mathbb{Z}"), ("positive integer", r"\mathbb{N+}"), ("natural number", r"\mathbb{N}"))
    for spelling in (kind, kind + "s")
}
_ALL_WHOLE = re.compile(
    r"(?:all )?(?:positive )?(?:integers?|natural numbers) (?P<condition>[kmn] ?(?:[<>]|\\(?:le|ge|ne|neq|leq|geq)\b).*)"
)
_ALL_X = re.compile(r"all (?:real )?(?P<condition>[a-z] ?(?:[<>]|\\(?:le|ge|ne|neq|leq|geq)\b).*)")
_REAL = re.compile(r"(?:any|every|all|each) (?:real number|real value|reals?|real numbers?)(?: [a-z])?", re.IGNORECASE)
_THE_SET = re.compile(r"(?:the )?(?:solution )?set (?=\\\{)")
_EITHER = re.compile(r"(?:\\text\s*\{\s*)?(?:either|both)\s*(?P<close>\})?\s*(?=[-\d\\a-z])", re.IGNORECASE)
_HOLDS_MATH = re.compile(r"[\d\\<>=]")


def with_sets_in_symbols(text: str) -> str:
    """A set described in words, in symbols; any other answer as it is."""
    words = plain(text)
    if _EITHER.match(text):
        text = _without_either(text)
    if not words or not words[0].isalpha():
        return text
    whole = _WHOLE.fullmatch(words)
    if whole:
        return _OF_WHOLE[whole["kind"].lower()]
    if _REAL.fullmatch(words):
        return r"\mathbb{R}"
    found = family_in_words(words) or _signed(words) or _excepted(words) or _conditioned(words)
    if found:
        return found
    lead = _THE_SET.match(words)
    return words[lead.end() :] if lead else text


def _without_either(text: str) -> str:
    """either 3 or 5, both 3 and 5."""
    match = _EITHER.match(text)
    rest = text[match.end() :]
    return rest if match["close"] or not text.startswith("\\text") else r"\text{" + rest


def _signed(words: str) -> str | None:
    match = _SIGNED.fullmatch(words)
    return _OF_SIGN[match["sign"].lower().replace("-", "")] if match else None


def _excepted(words: str) -> str | None:
    match = _EXCEPT.fullmatch(words)
    if match is None or not _HOLDS_MATH.search(match["left"]):
        return None
    items = re.sub(r"\s*,?\s*\b(?:and|or)\b\s*", ", ", match["left"])
    items = re.sub(r"\\pm\s*([\w\\{}]+)", r"\1, -\1", items)
    kind = "Z" if match["whole"] else "R"
    return rf"\mathbb{{{kind}}} \setminus \{{{items}\}}" if not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}", items) else None


def _conditioned(words: str) -> str | None:
    for pattern in (_SUCH_THAT, _ALL_X, _ALL_WHOLE):
        match = pattern.fullmatch(words)
        if match and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", match["condition"]):
            return match["condition"]
    match = _BETWEEN.fullmatch(words)
    if match:
        brackets = "[]" if match.group(3).lower() == "inclusive" else "()"
        return f"{brackets[0]}{match.group(1)}, {match.group(2)}{brackets[1]}"
    match = _FROM_TO.fullmatch(words)
    if match:
        return f"[{match.group(1)}, {match.group(2)}]"
    match = _COMPARED.fullmatch(words)
    if match and _HOLDS_MATH.search(match["bound"]) and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", match["bound"]):
        return f"{_WAYS[match['way'].lower()]} {match['bound']}"
    return None
