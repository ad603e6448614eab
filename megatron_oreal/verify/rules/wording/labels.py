"""Words before and behind a value that only present it: `the answer is`, `Area:`, `the point`, `is the minimum`."""

import re

from megatron_oreal.verify.rules.wording.vocabulary import TEXT, changes

_LEAD = re.compile(
    r"(?:\\text(?:bf|rm|it)?\s*\{\s*)?(?:ans\. ?|(?:so|thus|therefore|hence|there|we|find|get|have|that|the|final|correct|answer|solution"
    r"|value|result|is|are|be|exactly|just|simply|only)\b[ ,:]*)+\}?\s*",
    re.IGNORECASE,
)
_VERBS = "(?:will )?(?:has|have|had|needs?|costs?|takes?|earns?|earned|spends?|spent|makes?|made|gets?|pays?|paid|saves?|saved|requires?)"
_SAID = re.compile(
    rf"(?:{TEXT})?(?:(?:[Hh]ence|[Tt]hus|[Tt]herefore|[Ss]o|[Tt]hen),?\s+)?(?P<label>[A-Za-z][A-Za-z' -]{{1,60}}?)(?:\s*\}})?"
    rf"(?P<figure>\s*\\?(?:triangle|angle)?\s*[A-Z]{{1,5}}\s*(?:{TEXT})?)?"
    rf"\s*(?:\b(?:is|are|equals|will be|was|{_VERBS})\b(?:\s+equal to)?\s*:?|:)\s*\}}?\s*"
)
_SAID_OF = re.compile(rf"{TEXT}[A-Za-z ,']{{1,60}}\}}\s*[^{{}}=<>]{{1,30}}{TEXT}(?:is|are|equals)(?: equal to)?\s*:?\s*\}}\s*")
_OF_A_FIGURE = re.compile(
    rf"(?:(?:{TEXT})?(?:the )?(?:ellipse|circle|line|parabola|hyperbola|curve|plane|sphere|function|equation|graph)s?\s*:?\s*\}}?"
    r"|[a-zA-Z](?:_\w)?\s*:)"
    r"\s+(?=[^\s:].*=)",
    re.IGNORECASE,
)
_PART_OF_QUESTION = re.compile(
    rf"(?:{TEXT})?(?:Part|Question|Problem|Q)\s*\(?(?:[a-z]|i{{1,3}}|\d)\)?\s*[:.]?\s*\}}?\s*(?=\S)", re.IGNORECASE
)
_NAMED = re.compile(
    rf"(?:{TEXT})?(?:(?:the|an?) )?(?:(?:max|min|total|sum|area|volume|length|perimeter|radius|exactly|year|minimum|maximum)\.?\s?)+"
    rf"(?:value|point|number|of)?(?:\s*\}})?\s*(?=[-\d\\A-Z])(?!\\text\b)\}}?\s*"
    rf"|(?:{TEXT})?(?:the )?(?:ordered |solution )?(?:points?|pairs?|set|interval|vector|triple|vertex|cent(?:er|re)|midpoint|focus|at)"
    r"\s*(?:is\s*)?\}?\s*(?=[(\\\[]|[A-Z]'?\s*\()",
    re.IGNORECASE,
)
_BOTH_EXTREMES = re.compile(r"max.*min|min.*max", re.IGNORECASE | re.DOTALL)
_TAIL = re.compile(
    r"\s*(?:\\text\s*\{\s*)?\bis (?:the|our|a) (?:(?:final|only|required|correct|desired|smallest|largest|least|greatest|minimum|maximum"
    r"|possible)\s?)*(?:answer|solution|minimum|maximum|value|result|root|number|integer|one)?\s*\}?$",
    re.IGNORECASE,
)
_LETTER_IS = re.compile(rf"(?:{TEXT})?([a-zA-Z])\s*(?:{TEXT})?\s(?:is equal to|equals|is)\s*\}}?\s*(?=[-\d\\(])")
_SUCH = re.compile(r"(?<=\d)(\s*(?:\\text\s*\{\s*)?)such\s+(?=[a-z])", re.IGNORECASE)
_OPEN_TEXT = re.compile(rf"^{TEXT}")
_WORD = re.compile(r"[A-Za-z]{2}")


def unlabelled(text: str) -> str:
    """A normalised answer without words that only present it: `the answer is`, `Area:`, `is the solution`.

    Nothing that could negate, hedge or change the value is among them.
    """
    letter = _LETTER_IS.match(text)
    if letter:
        return f"{letter.group(1)} = {_without_surplus(text[letter.end() :])}"
    value = _SUCH.sub(r"\1 ", _TAIL.sub("", text))
    if value.count("{") == value.count("}") + 1 and _OPEN_TEXT.match(value):
        value = _OPEN_TEXT.sub("", value)  # \text{12 is the answer}
    lead = _lead(value)
    value = value[lead.end() :] if lead else value
    value = _without_surplus(value) if text.startswith("\\") else value
    return value if value.count("{") == value.count("}") and value.strip() else text


def _without_surplus(text: str) -> str:
    """\\text{The answer is 12.}, its beginning cut off, without the brace at its end."""
    return text[:-1].rstrip(" .") if text.count("}") == text.count("{") + 1 and text.endswith("}") else text


def _lead(text: str) -> re.Match | None:
    said = _SAID_OF.match(text) or _OF_A_FIGURE.match(text) or _PART_OF_QUESTION.match(text)
    if said and not changes(said.group()) and said.end() < len(text):
        return said
    said = None if _BOTH_EXTREMES.search(text) else _SAID.match(text)
    if said and _WORD.search(said["label"]) and not changes(said["label"]) and said.end() < len(text):
        return said
    named = None if _BOTH_EXTREMES.search(text) else _NAMED.match(text)
    return named if named and not changes(text) else _LEAD.match(text)
