"""Names before a sign of equality unknown to the grammar: P(X = 2), \\cos A, f(x)_{\\max}, |A \\cup B|; each marked as one letter."""

import re

from megatron_oreal.verify.rules.wording.vocabulary import TEXT, changes, plain

NAME_MARK = "\x02"
"""Around a name that the grammar has no place for; the lexer makes it one letter."""
MAX_LABEL = 120

_FUNCTION = (
    r"(?:\\(?:mathbb|mathrm|operatorname|text|mathbf)\s*\{\s*)?\\?"
    r"(?:P|Pr|E|D|V|Var|Cov|Corr|SD|card|dim|rank|rk|tr|deg|det|ord|Arg|arg|Re|Im)\s*\}?"
)
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
_WORDS = re.compile(rf"{TEXT}([A-Za-z][A-Za-z .'-]*)\}}\s*(?:(?:\\(?:triangle|angle|odot)\s*)?[A-Z]{{1,5}}(?:_\w)?\s*)?")
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*(?:d|\\partial|\\mathrm\{d\})[^{}]*\}\s*\{\s*(?:d|\\partial|\\mathrm\{d\})[^{}]*\}(?:\s*\|\s*_.*)?|[a-zA-Z]'+\s*\([^()]*\)"
)
_AT_A_NUMBER = re.compile(
    r"(?:[fghpqFGHPQRSTN](?:_\{?\w\}?)?'*|\\(?:varphi|phi|tau|sigma|mu|omega|pi|Gamma|zeta|psi))\s*"
    r"(?=\()(?:[-\d\s.,/^{}()]|\\(?:[dt]?frac|sqrt|pi|cdot)(?![a-z]))+"
)
"""f(1/2), \\varphi(13): a function at a number."""
_COUNT = re.compile(r"\\?#\s*\(?\{?\s*[A-Z].*")
_COMPOSED = re.compile(r"\(?\s*[a-zA-Z]\s*(?:\\circ\s*[a-zA-Z]\s*)+\)?\s*\(.*\)|[fgh]\s*\(\s*[fgh]\s*\(.*\)\s*\)")
_ARC = re.compile(r"\\(?:overset|stackrel)\s*\{\s*\\frown\s*\}\s*\{[A-Z]+\}|\\(?:measuredangle|odot)\s*[A-Z]+")
_JOINT = re.compile(
    r"(?P<open>[\[({]|\\\{|\\langle(?![a-z]))|(?P<close>[\])}]|\\\}|\\rangle(?![a-z]))|(?P<equals>(?<![<>=!:])=(?!=))"
    r"|(?P<between>[,;\x01]|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\\(?:lor|land)(?![a-z])|&)|\\.",
    re.DOTALL,
)


_EXTREME_IN_WORDS = re.compile(r"^(?:the )?(max|min)(?:imum)?(?: value)?$")
_EXTREMES = re.compile(
    rf"(?P<before>^|,\s*){TEXT},?\s*(?:the )?(?P<name>minimum|maximum|min|max)(?: value)?\s*(?:is|of|:)?\s*\}}\s*:?\s*(?=[-\d\\])",
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
        spoken = _EXTREME_IN_WORDS.sub(r"\1", " ".join(plain(bare).lower().split()))
        return f'{NAME_MARK}"{spoken}{NAME_MARK}'
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
    if _OF_A_NAME.fullmatch(text) or _COUNT.fullmatch(text):
        return True
    if _AT_A_NUMBER.fullmatch(text):
        return _is_one_bracket(text)
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
