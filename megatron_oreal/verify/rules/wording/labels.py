"""What stands before a value and only names it: `the answer is`, `Area:`, `P(X = 2) =`, `f(x)_{\\max} =`."""

import re

from megatron_oreal.verify.rules.wording.vocabulary import changes, plain

NAME_MARK = "\x02"
"""Around a name that the grammar has no place for; the lexer makes it one letter."""
MAX_LABEL = 120

_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{\s*"
_LEAD = re.compile(
    r"(?:\\text(?:bf|rm|it)?\s*\{\s*)?(?:(?:so|thus|therefore|hence|we|find|get|have|that|the|final|correct|answer|solution|value|result"
    r"|is|are|be|exactly|just|simply|only)\b[ ,:]*)+\}?\s*",
    re.IGNORECASE,
)
_SAID = re.compile(
    rf"(?:{_TEXT})?(?P<label>[A-Za-z][A-Za-z' -]{{1,60}}?)(?:\s*\}})?"
    rf"(?P<figure>\s*\\?(?:triangle|angle)?\s*[A-Z]{{1,5}}\s*(?:{_TEXT})?)?\s*(?:\b(?:is|are|equals|will be|was)\b(?:\s+equal to)?\s*:?|:)\s*\}}?\s*"
)
_SAID_OF = re.compile(rf"{_TEXT}[A-Za-z ,']{{1,60}}\}}\s*[^{{}}=<>]{{1,30}}{_TEXT}(?:is|are|equals)(?: equal to)?\s*:?\s*\}}\s*")
_OF_A_FIGURE = re.compile(
    rf"(?:(?:{_TEXT})?(?:the )?(?:ellipse|circle|line|parabola|hyperbola|curve|plane|sphere|function|equation|graph)s?\s*:?\s*\}}?|[a-zA-Z](?:_\w)?\s*:)"
    r"\s+(?=[^\s:].*=)"
)
_PART_OF_QUESTION = re.compile(
    rf"(?:{_TEXT})?(?:Part|Question|Problem|Q)\s*\(?(?:[a-z]|i{{1,3}}|\d)\)?\s*[:.]?\s*\}}?\s*(?=\S)", re.IGNORECASE
)
_NAMED = re.compile(
    rf"(?:{_TEXT})?(?:(?:the|an?) )?(?:(?:max|min|total|sum|area|volume|length|perimeter|radius|exactly|year|minimum|maximum)\.?\s?)+"
    rf"(?:value|point|number|of)?(?:\s*\}})?\s*(?=[-\d\\A-Z])(?!\\text\b)\}}?\s*"
    rf"|(?:{_TEXT})?(?:the )?(?:ordered |solution )?(?:points?|pairs?|set|vector|triple|vertex|cent(?:er|re)|midpoint|focus|intersection|at)\s*(?:is\s*)?\}}?\s*(?=[(\\\[]|[A-Z]'?\s*\()",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s*(?:\\text\s*\{\s*)?\bis (?:the|our|a)(?: (?:final|only|required|correct|desired|smallest|largest|least|greatest))*"
    r" (?:answer|solution|minimum|maximum|value|result|minimum value|maximum value|root)\s*\}?$",
    re.IGNORECASE,
)
_LETTER_IS = re.compile(rf"(?:{_TEXT})?([a-zA-Z])\s*(?:{_TEXT})?\s(?:is equal to|equals|is)\s*\}}?\s*(?=[-\d\\(])")
_OPEN_TEXT = re.compile(rf"^{_TEXT}")
_WORD = re.compile(r"[A-Za-z]{2}")


def unlabelled(text: str) -> str:
    """A normalised answer without words that only present it: `the answer is`, `Area:`, `is the solution`.

    Nothing that could negate, hedge or change the value is among them.
    """
    letter = _LETTER_IS.match(text)
    if letter:
        return f"{letter.group(1)} = {_without_surplus(text[letter.end() :])}"
    value = _TAIL.sub("", text)
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
    said = _SAID.match(text)
    if said and _WORD.search(said["label"]) and not changes(said["label"]) and said.end() < len(text):
        return said
    named = _NAMED.match(text)
    return named if named and not changes(text) else _LEAD.match(text)


# -- names before a sign of equality

_FUNCTION = r"(?:\\(?:mathbb|mathrm|operatorname|text|mathbf)\s*\{\s*)?\\?(?:P|Pr|E|D|V|Var|Cov|Corr|SD|card|dim|rank|rk|tr|deg|det|ord|Arg|arg|Re|Im)\s*\}?"
_OF_SOMETHING = re.compile(rf"{_FUNCTION}\s*[(\[]")
_OF_A_NAME = re.compile(rf"(?:{_FUNCTION}|\\(?:dim|det|deg|arg|ker))\s*\\?[a-zA-Z]\w?")
_OF_SETS = re.compile(r"[nd]\s*\(\s*(?:[A-Z]|\\(?:overline|bar|complement))")
_EXTREME = re.compile(
    r"(?:[a-zA-Z]|[a-zA-Z]\s*\([a-zA-Z]\))\s*\\?(?:max|min)|.*[\w)\]|}]\s*_\s*\{?\s*(?:\\(?:text|mathrm|operatorname|rm)\s*\{?\s*)?\\?(?:max|min|maximum|minimum)\s*[}\s]*"
)
_OF_AN_ANGLE = re.compile(
    r"(?:\\?|\\(?:operatorname|mathrm)\s*\{\s*)(?:sin|cos|tan|cot|sec|csc|tg|ctg)\s*\}?\s*(?:\^\s*\{?\s*\d\s*\}?\s*)?(?P<argument>.+)"
)
_ANOTHER_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|tg|ctg|log|ln)(?![a-z])")
_VALUE_OF_ANGLE = re.compile(r"[A-Zx-z]|\\(?:theta|alpha|beta|gamma|varphi|phi|omega|angle|vec|langle|overrightarrow)")
_NORM = re.compile(r"(?:\|[^|]+\||\\\|.+\\\||\\[lr]?[vV]ert.+\\[lr]?[vV]ert)\s*(?:_\s*\{?\w\}?)?")
_DOUBLE_BAR = re.compile(r"\\\||\\[lr]?Vert")
_INSIDE_NORM = re.compile(r"\\(?:vec|overrightarrow|mathbf|cup|cap|boldsymbol|bm)|[A-Z]{2}|[zuvw](?![a-z])|[A-Z]")
_SERIES = re.compile(
    r"\\?(?:lim|limsup|liminf)(?![a-z]).*|\\?(?:max|min)|\\(?:sum|prod|i*int|oint|max|min|sup|inf|gcd|lcm)(?![a-z]).*[a-zA-Z].*"
)
_CAPITALS = re.compile(
    r"(?=.*(?:\\(?:cap|cup|complement|setminus)|C_))(?:[A-Z(){}\s_']|\\(?:cap|cup|complement|overline|bar|setminus|backslash|mathbb)(?![a-z]))+"
)
_WORDS = re.compile(rf"{_TEXT}([A-Za-z][A-Za-z .'-]*)\}}\s*(?:(?:\\(?:triangle|angle|odot)\s*)?[A-Z]{{1,5}}(?:_\w)?\s*)?")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*(?:d|\\partial|\\mathrm\{d\})[^{}]*\}\s*\{\s*(?:d|\\partial|\\mathrm\{d\})[^{}]*\}(?:\s*\|\s*_.*)?|[a-zA-Z]'+\s*\([^()]*\)"
)
_COMPOSED = re.compile(r"\(?\s*[a-zA-Z]\s*(?:\\circ\s*[a-zA-Z]\s*)+\)?\s*\(.*\)|[fgh]\s*\(\s*[fgh]\s*\(.*\)\s*\)")
_ARC = re.compile(r"\\(?:overset|stackrel)\s*\{\s*\\frown\s*\}\s*\{[A-Z]+\}|\\(?:measuredangle|odot)\s*[A-Z]+")
_SIGN = re.compile(r"\\(?:cdot|times|pm|approx)(?![a-z])|[-+*/<>]")
_JOINT = re.compile(
    r"(?P<open>[\[({]|\\\{|\\langle(?![a-z]))|(?P<close>[\])}]|\\\}|\\rangle(?![a-z]))|(?P<equals>(?<![<>=!:])=(?!=))"
    r"|(?P<between>[,;\x01]|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:lor|land)(?![a-z])|&)|\\.",
    re.DOTALL,
)


_EXTREMES = re.compile(
    rf"(?P<before>^|,\s*){_TEXT},?\s*(?:the )?(?P<name>minimum|maximum|min|max)(?: value)?\s*(?:is|of|:)?\s*\}}\s*:?\s*(?=[-\d\\])",
    re.IGNORECASE,
)


def with_names_marked(text: str) -> str:
    """Every name before a sign of equality that the grammar does not know as one, marked; one pass."""
    text = _EXTREMES.sub(r"\g<before>\\text{\g<name>} = ", text)
    if "=" not in text:
        return text
    pieces, begin, seen, depth = [], 0, False, 0
    for match in _JOINT.finditer(text):
        depth = max(0, depth + (match["open"] is not None) - (match["close"] is not None))
        if depth:
            continue
        if match["between"] is not None:
            pieces.append(text[begin : match.end()])
            begin, seen = match.end(), False
        elif match["equals"] is not None and not seen:
            pieces.append(_marked(text[begin : match.start()]))
            begin, seen = match.start(), True
    return "".join((*pieces, text[begin:]))


def _marked(name: str) -> str:
    bare = name.strip()
    words = _WORDS.fullmatch(bare)
    if words and len(bare) > MAX_LABEL // 20 and not changes(words.group(1)):
        return f'{NAME_MARK}"{" ".join(plain(bare).lower().split())}{NAME_MARK}'
    if 0 < len(bare) <= MAX_LABEL and NAME_MARK not in bare and is_name(bare):
        return f"{NAME_MARK}{''.join(bare.split())}{NAME_MARK}"
    return name


def is_name(text: str) -> bool:
    """Whether it names a quantity and cannot be taken for an equation's side: P(X = 2), \\cos A, f(x)_{\\max}, |A \\cup B|."""
    if _OF_SOMETHING.match(text) or _OF_SETS.match(text):
        return _is_one_bracket(text)
    angle = _OF_AN_ANGLE.fullmatch(text)
    if angle:
        return _is_argument(angle["argument"])
    if _NORM.fullmatch(text):
        return (_DOUBLE_BAR.match(text) or _INSIDE_NORM.search(text)) is not None
    if _OF_A_NAME.fullmatch(text):
        return True
    return any(pattern.fullmatch(text) for pattern in (_SERIES, _CAPITALS, _DERIVATIVE, _COMPOSED, _ARC, _EXTREME))


def _is_argument(text: str) -> bool:
    """Of one function, with a letter in it: A + B in brackets, but no sum outside of them."""
    if not _VALUE_OF_ANGLE.search(text) or _ANOTHER_FUNCTION.search(text):
        return False
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in "+-*/<>":
            return False
    return True


def _is_one_bracket(text: str) -> bool:
    """The bracket that opens first closes last."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character in ")]":
            return position == len(text) - 1
    return False
