"""Normalised LaTeX -> tokens. Nothing here is recursive without a bound, and nothing takes more than linear time."""

import re
from typing import NamedTuple

from megatron_oreal.verify.rules.reading import vocabulary as v
from megatron_oreal.verify.rules.reading.normalize import ROW_BREAK
from megatron_oreal.verify.rules.reading.units import CANONICAL, SHORT_UNITS, unit_expression
from megatron_oreal.verify.rules.syntax import ELLIPSIS


class CannotRead(ValueError):
    """The text is not an answer this grammar knows; says nothing about right or wrong."""


class Token(NamedTuple):
    kind: str  # num sym const fn cmd op word unit name sep cur begin end
    text: str


MAX_TOKENS = 700
_ITEM_WITH_ZEROS = re.compile(r"(?<![\d.])\d+,0\d+(?!\d)")
_NO_GROUP_BUT_ZEROS = re.compile(r"(?<![\d.])\d+,0(?:\d|\d{3,})(?!\d)")
"""1,000 is no list, nor is 1,00: nobody writes 00 for an item."""

_NUMBER = (
    r"(?:\d*\.\d+ ?(?:\.\.\.|\\l?dots(?![a-zA-Z]))|\d*\.\(\d+\)"
    r"|(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:\\dot\s*\{\d\}\d*\\dot\s*\{\d\}|\\(?:overline|bar|dot)\s*\{\d+\}|\\dot\s*\{?\d\}?(?:\d*\\dot\s*\{?\d\}?)?)?)"
)
_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?! ?\d)"
_REST = (
    r"|(?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z])))|\\(?P<command>[a-zA-Z]+|.)|(?P<letters>[a-zA-Z]+)"
    r"|(?P<op><=|>=|!=|==|\*\*|\.\.\.|[-+*/^_!()\[\]{}|,;:=<>%&?'\"#@`~])|(?P<currency>[€£¥₹¢])"
    rf"|(?P<row>{ROW_BREAK})|\x02(?P<name>[^\x02]*)\x02|(?P<space>\s+)|(?P<dot>\.)"
)
_SCIENTIFIC = r"(?:[eE][-+]?\d+(?![\d.a-zA-Z]))?"
_TOKENS = {
    True: re.compile(rf"(?P<num>(?:{_THOUSANDS}|{_NUMBER}){_SCIENTIFIC})" + _REST, re.DOTALL),
    False: re.compile(rf"(?P<num>(?:{_NUMBER}){_SCIENTIFIC})" + _REST, re.DOTALL),
}
_BRACED = re.compile(r"\s*\{([^{}]*)\}")
_NESTED = re.compile(r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_DOTTED_CLOCK = re.compile(r"\b([aApP])\.\s?[mM]\b\.?")
_DECORATED_LETTER = re.compile(r"\s*([a-zA-Z])")
_PROSE = re.compile(r"[A-Za-z]{2,}(?:[ ,.'-]+[A-Za-z]+)*[ ,.'-]+[A-Za-z]{2,}[.]?")  # words alone: two lines
_WORDY = re.compile(r"[A-Za-z]{2}")
_CALCULATED = re.compile(r"\d[a-zA-Z]|[=+^]|\\[a-zA-Z]")

_SPACES = frozenset(" ,;:!")
_COMMANDS = (
    {name: Token("sym", "\\" + name.removeprefix("var")) for name in v.LETTERS}
    | {name: Token("sym", ELLIPSIS) for name in v.ELLIPSES}
    | {name: Token("sym", "emptyset") for name in v.EMPTY_SETS}
    | {name: Token("const", name[:3]) for name in ("pi", "infty")}
    | {name: Token("sep", word) for name, word in v.SEPARATORS.items()}
    | {name: Token("fn", name) for name in v.FUNCTIONS}
    | {name: Token("cmd", command) for name, command in v.ARGUMENTS.items()}
    | {name: Token("op", operator) for name, operator in v.OPERATORS.items()}
    | {"$": Token("cur", "dollar")}
)
"""Those that are one token by themselves."""


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """Tokens of a normalised answer; `thousands`: 1,234 is one number. Raises CannotRead."""
    if (_NO_GROUP_BUT_ZEROS if thousands else _ITEM_WITH_ZEROS).search(text):
        raise CannotRead("a list with an item that begins with zeros")
    tokens: list[Token] = []
    _scan(_DOTTED_CLOCK.sub(r"\1m", text), thousands, _PROSE.fullmatch(text) is not None, tokens)
    return tokens


def _scan(text: str, thousands: bool, prose: bool, tokens: list[Token]) -> None:
    pattern, position = _TOKENS[thousands], 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None or len(tokens) > MAX_TOKENS:
            raise CannotRead(f"no token at {text[position : position + 10]!r}")
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "command":
            position = _command(match.group("command"), text, position, thousands, prose, tokens)
        elif kind == "letters":
            _letters(token, prose, tokens)
        elif kind == "name":
            tokens.append(Token("name", match.group("name")))
        elif kind != "space" and (kind != "dot" or not prose):
            tokens.append(_plain(kind, token))


def _plain(kind: str, token: str) -> Token:
    if kind == "num":
        return Token("num", token)
    if token == ELLIPSIS:
        return Token("sym", ELLIPSIS)
    if kind == "op":
        return Token("op", v.ASCII_OPERATORS.get(token, token))
    if kind == "degree":
        return Token("op", "°")
    if kind == "currency":
        return Token("cur", v.CURRENCIES[token])
    if kind == "row":
        return Token("op", "row")
    raise CannotRead("a dot on its own")


def _letters(run: str, prose: bool, tokens: list[Token]) -> None:
    """A run of letters: a known name, a word, or one variable a letter."""
    after_value = _after_value(tokens)
    if run in (v.FUNCTIONS_IN_TEXT if prose else v.FUNCTIONS) and not (after_value and run in SHORT_UNITS):
        tokens.append(Token("fn", run))
    elif run in v.CURRENCY_CODES:
        tokens.append(Token("cur", v.CURRENCY_CODES[run]))
    elif run.lower() in v.KNOWN_WORDS and (len(run) > 2 or run in v.KNOWN_WORDS):
        tokens.append(Token(*v.KNOWN_WORDS[run.lower()]))
    elif (
        prose
        or len(run) > 3
        or (tokens and tokens[-1] == Token("word", "per") and run.lower() in CANONICAL)
        or (after_value and (run in SHORT_UNITS or (len(run) > 1 and run.lower() in CANONICAL)))
    ):
        tokens.append(Token("word", run))
    else:
        tokens.extend(_letter(c) for c in run)


def _after_value(tokens: list[Token]) -> bool:
    """A short unit is looked for right after a value only: `5 cm`, but not the product `xcm`."""
    if not tokens:
        return False
    kind, text = tokens[-1]
    return kind in ("num", "const") or (kind == "op" and text in (")", "}", "°", "!"))


def _letter(c: str) -> Token:
    return Token("const", c) if c in "ei" else Token("sym", c)


def _command(name: str, text: str, position: int, thousands: bool, prose: bool, tokens: list[Token]) -> int:
    """Append the tokens of a command; returns where to go on (behind the arguments that were read here)."""
    if name in v.TEXT:
        return _text_argument(name, text, position, thousands, tokens)
    if name in v.DECORATIONS or name == "mathbb":
        return _decorated(name, text, position, tokens)
    if name in ("begin", "end"):
        return _environment(name, text, position, tokens)
    token = _command_token(name)
    if token is not None:
        tokens.append(token)
    return position


def _command_token(name: str) -> Token | None:
    """None for a space."""
    if name in _SPACES:
        return None
    if name not in _COMMANDS:
        raise CannotRead(f"unknown command {name[:20]!r}")
    return _COMMANDS[name]


def _text_argument(name: str, text: str, position: int, thousands: bool, tokens: list[Token]) -> int:
    match = _NESTED.match(text, position)
    if match is None:
        return position  # what follows is read as any other group
    inner = match.group(1).strip()
    if inner in v.FUNCTIONS and (name == "operatorname" or inner in v.OF_OTHER_SCHOOLS) or inner in v.OPERATOR_NAMES:
        tokens.append(Token("fn", inner))
        return match.end()
    unit = unit_expression(inner) if _after_value(tokens) else None
    if unit:
        tokens.append(Token("unit", " ".join(unit)))
        return match.end()
    math_like = not _WORDY.search(inner) and _CALCULATED.search(inner)
    if math_like or (name in v.MATH_ALPHABETS and len(inner) == 1):
        _scan("{" + inner + "}", thousands, False, tokens)
    else:
        _scan(inner, thousands, True, tokens)
    return match.end()


def _decorated(name: str, text: str, position: int, tokens: list[Token]) -> int:
    match = _BRACED.match(text, position) or _DECORATED_LETTER.match(text, position)
    if match is None:
        raise CannotRead(f"\\{name} without a simple argument")
    inner = match.group(1).strip()
    if name == "mathbb":
        tokens.append(Token("sym", v.SETS.get(inner, inner)))
    else:
        tokens.append(Token("sym", f"\\{v.SAME_DECORATION.get(name, name)}{{{inner}}}"))
    return match.end()


def _environment(name: str, text: str, position: int, tokens: list[Token]) -> int:
    match = _BRACED.match(text, position)
    if match is None:
        raise CannotRead(f"\\{name} without a name")
    tokens.append(Token(name, match.group(1).strip().rstrip("*")))
    columns = _BRACED.match(text, match.end()) if match.group(1).strip() == "array" and name == "begin" else None
    return columns.end() if columns else match.end()
