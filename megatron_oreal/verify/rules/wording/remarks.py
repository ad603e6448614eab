"""What stands behind a value and leaves it as it is: (approximately 3.46), (since x > 0), attained at x = 2."""

import re

from megatron_oreal.verify.rules.wording.vocabulary import TEXT, changes, plain, words_of

_ABOUT = r"(?:approximately|approx\.?|about|roughly|around|or about|or approximately|or approx\.?|which is about|which is approximately)"
_VALUE = r"\$?\s*-?[\d.,]+(?:\s*\\times\s*10\s*\^\s*\{?-?\d+\}?)?\s*(?:\\?%)?"
_APPROXIMATION = re.compile(
    rf"\s*,?\s*(?:{TEXT})?,?\s*(?:\(\s*(?:{TEXT})?(?:\\approx|{_ABOUT}|=)|(?:or|which is)\s+(?:{_ABOUT}|\\approx))\s*\}}?\s*\(?{_VALUE}"
    rf"\s*(?:{TEXT})?[a-zA-Z ]{{0,20}}\}}?\s*\)?\s*\}}?\s*$",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"\s*(?:{TEXT})?\s*\((?P<words>[^()]*(?:\([^()]*\)[^()]*)*)\)\s*\}}?\s*$")
_AT = re.compile(
    rf"\s*,?\s*(?:{TEXT})\s*,?\s*(?:when|at|attained (?:at|when|for)|achieved (?:at|when|for)|occurring at|occurs at|reached at"
    rf"|as required|as desired|since|because)\b[^{{}}]*\}}(?P<rest>.*)$",
    re.DOTALL,
)
_REASON = re.compile(
    r"\s*(?:since|because|as|where|when|attained|achieved|rounded|correct to|in simplest|exact|simplified|approx|approximately|i\.e\.?"
    r"|that is|namely)\b",
    re.IGNORECASE,
)
_NO_REMARK = re.compile(r"\\in(?![a-z])|∈|\b(?:mod|base|integer|integers|if|natural)\b|\bthousand")
_PRECISION = re.compile(
    r"\s*(?:to |correct to |rounded to )?(?:the )?"
    r"(?:nearest [a-z]+|\d+ ?(?:d\.? ?p|s\.? ?f|sig\.? ?figs?|decimal places?|significant figures?|decimals?)\.?)\s*"
)
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "ln",
        "log",
        "exp",
        "sqrt",
        "alpha",
        "beta",
        "gamma",
        "theta",
        "lambda",
        "phi",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
    ]
)
_LEAD = re.compile(rf"(?:{TEXT})?(?P<word>approximately|approx\.?|about|roughly|around)\s*\}}?\s*(?=[-\d\\$])", re.IGNORECASE)
_EXPANSION = re.compile(r"(?<=[\w})])\s*=\s*-?\d+\.\d+\s*(?:\.\.\.|\\l?dots)\s*$")
_ONLY = re.compile(rf"(?<=\w)\s*{TEXT}only\s*\}}$|(?<=\w)\s+only(?=\s*\}}$)")
_SIMILAR = re.compile(r"^\\(?:sim|simeq)\s*(?=[-\d.\\])")
_TRAILING_LEAD = re.compile(rf"\s*(?:{TEXT})?\(?\s*(?:approximately|approx\.?)\s*\)?\s*\}}?$", re.IGNORECASE)


def without_remarks(text: str) -> str:
    """The answer without a remark at its end that neither negates nor adds to it."""
    text = _ONLY.sub("", _EXPANSION.sub("", text)) or text
    value = _APPROXIMATION.sub("", text) if "approx" in text or "=" in text or "about" in text or "around" in text else text
    value = value if _is_whole(value) else text
    value = _TRAILING_LEAD.sub("", value) or value
    for cut in (_bracketed(value), _at(value)):
        if cut and _is_whole(cut):
            return cut
    return _with_sign_of_rounding(value)


def _is_whole(text: str) -> bool:
    return bool(text.strip()) and text.count("{") == text.count("}")


def _bracketed(text: str) -> str | None:
    match = _BRACKETED.search(text) if text.rstrip(" }").endswith(")") else None
    if match is None or match.start() == 0:
        return None
    remark, before = plain(match["words"]), text[: match.start()].rstrip()
    in_text = "\\text" in match.group() or "\\math" in match.group() or "\\mbox" in match.group()
    rounded = re.match(r"\s*(?:rounded|correct to)", remark)
    if not before or changes(remark) or (_NO_REMARK.search(remark) and not rounded) or (before[-1].isalpha() and not in_text):
        return None
    if _REASON.match(remark) or _PRECISION.fullmatch(remark):
        return before
    words = words_of(remark)
    spaced = in_text or text[len(before)] == " "
    only_words = spaced and re.fullmatch(r"[A-Za-z ,.'-]*[a-z]{3}[A-Za-z ,.'-]*", remark) and not _FUNCTIONS & set(words)
    return before if only_words else None


def _at(text: str) -> str | None:
    match = _AT.search(text)
    if match is None or match.start() == 0 or _NO_REMARK.search(match.group()) or changes(match.group()):
        return None
    return text[: match.start()]


def _with_sign_of_rounding(text: str) -> str:
    """approximately 1.41 as \\approx 1.41; `about` may hedge, but not beside a decimal."""
    text = _SIMILAR.sub(r"\\approx ", text)
    match = _LEAD.match(text)
    if match is None or (match["word"].lower() in ("about", "roughly", "around") and "." not in text[match.end() :]):
        return text
    rest = text[match.end() :]
    rest = rest[:-1] if rest.count("}") == rest.count("{") + 1 and rest.endswith("}") else rest
    return rf"\approx {rest}" if _is_whole(rest) else text
