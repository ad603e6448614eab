"""Families with a parameter as people state it: for integer k, where n is any integer, (k \\in Z), k = 0, \\pm 1, \\ldots"""

import re

_TEXT = r"\\(?:text|mathrm|textrm|mbox)\s*\{\s*"
_SET = re.compile(
    r"(\\in\s*)(?:\\(?:mathbf|mathrm|text|bf|rm|bm|boldsymbol)\s*\{\s*([ZNRQ])\s*\}|\{?\s*([ZNRQ])\s*\}?)(?![a-zA-Z'(])(?=\s*(?:[,;.)}|]|\\|[+*^_]|$))"
)
_NATURALS = re.compile(
    r"\\mathbb\{([ZN])\}\s*(?:\^\s*\{?\s*(?:\+|\*|\\ast)\s*\}?|_\s*\{?\s*(?:\+|>\s*0)\s*\}?)|\\mathbb\{N\}\s*\^\s*\{\\star\}"
)
_KIND = (
    r"(?P<kind>integers?|whole numbers?|natural numbers?|positive integers?|non-?negative integers?"
    r"|real numbers?|reals?|(?:real |arbitrary )?constants?)\b"
)
_NAMES = {"integer": "Z", "positive": "N+", "real": "R", "arbitrary": "R", "constant": "R", "": "N"}
_LETTER = r"(?P<letter>[a-zA-Z])"
_LETTERS = r"(?P<letter>[a-zA-Z](?:\s*(?:,|and)\s*[a-zA-Z])?)"
_ANY = r"(?:(?:an?|any|all|every|each|some|arbitrary|the)\s+)*"
_STATED = tuple(
    re.compile(rf"\s*[,;]?\s*\(?\s*(?:{_TEXT})?\s*[,;(]?\s*(?:(?:for|where|with|and)\s*)?{statement}\s*\}}?\s*\)?\s*\}}?$", re.IGNORECASE)
    for statement in (
        rf"{_ANY}{_KIND}\s*(?:values?\s*(?:of)?)?\s*\}}?\s*\$?{_LETTERS}",
        rf"{_ANY}\}}?\s*{_LETTER}\s*(?:{_TEXT})?\s*(?:(?:is|are|being|=)\s*)?{_ANY}{_KIND}",
    )
)
_WHERE = r"(?:where|for|with|and|for (?:any|all|every|each|some))"
_MEMBER = re.compile(
    rf"\s*[,;]?\s*(?:{_TEXT}[,;]?\s*{_WHERE}\s*\}}\s*|\(\s*(?:{_TEXT}{_WHERE}\s*\}})?\s*)"
    r"(?P<letters>[a-zA-Z](?:\s*,\s*[a-zA-Z])?)\s*\\in\s*\\mathbb\s*\{?(?P<set>[ZNR]\+?)\}?\s*\)?$"
)
_SPACED_MEMBER = re.compile(r"(?<=[\w)}])\s+(?P<letters>[a-zA-Z])\s*\\in\s*\\mathbb\s*\{?(?P<set>[ZN]\+?)\}?\s*$")
_COUNTED = re.compile(
    r"\s*[,;]?\s*\(?\s*(?P<letter>[a-zA-Z])\s*=\s*0\s*,\s*\\pm\s*1\s*,\s*\\pm\s*2\s*,?\s*(?:\\pm\s*3\s*,?)?\s*(?:\\[lc]?dots|\.\.\.)\s*\)?$"
)
_IN_WORDS = re.compile(
    r"(?:(?:for )?(?:the set of |the )?(?:all )?(?:the )?|[a-z] is (?:an? )?)(?P<parity>even|odd)"
    r"(?P<noun>(?: (?:integers?|numbers?|values of))?(?: [a-z])?)",
    re.IGNORECASE,
)
_MULTIPLES = re.compile(
    r"(?:the set of |the )?(?:all )?(?:the )?(?:integer |integral )?(?:multiples of|integers divisible by|numbers divisible by) (\d{1,9})",
    re.IGNORECASE,
)


def with_conditions(text: str) -> str:
    """A family whose condition is written out, as `family, k \\in \\mathbb{Z}`; plain Z, N and R behind \\in as the sets."""
    text = _SET.sub(lambda m: rf"{m.group(1)}\mathbb{{{m.group(2) or m.group(3)}}}", text)
    text = _NATURALS.sub(r"\\mathbb{N+}", text)
    for pattern in (_MEMBER, _SPACED_MEMBER):
        match = pattern.search(text)
        if match and match.start():
            return f"{text[: match.start()]}, " + ", ".join(
                rf"{letter.strip()} \in \mathbb{{{match['set']}}}" for letter in match["letters"].split(",")
            )
    counted = _COUNTED.search(text)
    if counted and counted.start():
        return rf"{text[: counted.start()]}, {counted['letter']} \in \mathbb{{Z}}"
    return _stated(text) if any(word in text for word in ("integer", "number", "real", "constant")) else text


def _stated(text: str) -> str:
    match = next((found for found in (pattern.search(text) for pattern in _STATED) if found), None)
    if match is None or match.start() == 0:
        return text
    letter, kind, rest = match["letter"], match["kind"].lower(), text[: match.start()]
    letters = re.findall(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])", letter)
    if any(letter not in rest for letter in letters) or rest.count("{") != rest.count("}"):
        return text
    name = next(name for beginning, name in _NAMES.items() if kind.startswith(beginning))
    return rest + "".join(rf", {letter} \in \mathbb{{{name}}}" for letter in letters)


def family_in_words(words: str) -> str | None:
    """all even integers, multiples of 3."""
    parity, multiples = _IN_WORDS.fullmatch(words), _MULTIPLES.fullmatch(words)
    if parity and (parity["noun"] or " is " in words):
        return r"2 k, k \in \mathbb{Z}" if parity["parity"].lower() == "even" else r"2 k + 1, k \in \mathbb{Z}"
    return rf"{multiples.group(1)} k, k \in \mathbb{{Z}}" if multiples else None
