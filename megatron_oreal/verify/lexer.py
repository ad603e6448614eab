"""Normalised LaTeX -> tokens. Nothing here is recursive, and nothing takes more than linear time."""

import re
from typing import NamedTuple

from megatron_oreal.verify.normalize import ROW_BREAK
from megatron_oreal.verify.units import SHORT_UNITS


class CannotRead(ValueError):
    """The text is not an answer this grammar knows; says nothing about right or wrong."""


class Token(NamedTuple):
    kind: str  # num sym const fn cmd op word sep cur begin end
    text: str


MAX_TOKENS = 700
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth sech csch ln log lg exp max min gcd lcm"
    " arsinh arcosh artanh".split()
)
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau upsilon phi varphi chi psi"
    " omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar angle triangle circ star partial nabla Re Im aleph"
).split()
_OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "cup": "∪", "bigcup": "∪", "cap": "∩", "bigcap": "∩",
    "setminus": "∖", "backslash": "∖", "le": "≤", "leq": "≤", "leqslant": "≤", "leqq": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "geqq": "≥",
    "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "not": "not", "in": "∈", "notin": "∉", "approx": "≈", "sim": "~", "simeq": "≈", "cong": "≅",
    "equiv": "≡", "colon": ":", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|", "Vert": "‖", "lVert": "‖", "rVert": "‖",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "(", "rangle": ")", "lbrace": r"\{", "rbrace": r"\}", "lparen": "(",
    "rparen": ")", "lbrack": "[", "rbrack": "]", "degree": "°", "percent": "%", "propto": "∝", "to": "→", "rightarrow": "→", "mapsto": "→",
    "Rightarrow": "⇒", "implies": "⇒", "iff": "⇔", "Leftrightarrow": "⇔", "perp": "⊥", "parallel": "∥", "prime": "'", "bmod": "mod", "pmod": "mod",
    "subset": "⊂", "subseteq": "⊆", "choose": "choose", "atop": "choose", "over": "over", "{": r"\{", "}": r"\}", "|": "‖", "%": "%", "#": "#", "&": "&", "_": "_",
}  # fmt: skip
_TEXT = frozenset(
    "text textbf textit textrm textsf texttt textnormal mathrm mathbf mathit mathsf mbox hbox operatorname rm emph mathtt".split()
)
_DECORATIONS = frozenset(
    "overline bar hat vec tilde widehat dot ddot underline overrightarrow overarc overleftrightarrow mathcal mathfrak mathscr".split()
)
_ARGUMENTS = {
    "frac": "frac",
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "sqrt": "sqrt",
    "binom": "binom",
    "dbinom": "binom",
    "tbinom": "binom",
}
_SETS = {"R": "reals", "Z": "integers", "N": "naturals", "Q": "rationals", "C": "complexes"}
_SEPARATORS = {"lor": "or", "vee": "or", "land": "and", "wedge": "and"}
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "¢": "cent"}
_WORDS = {
    "pi": ("const", "pi"),
    "infinity": ("const", "inf"),
    "infty": ("const", "inf"),
    "sqrt": ("cmd", "sqrt"),
    "and": ("sep", "and"),
    "or": ("sep", "or"),
}

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:\\(?:overline|bar|dot)\s*\{\d+\}|\\dot\s*\d(?:\d*\\dot\s*\d)?)?"
_THOUSANDS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d{1,3}(?: \d{3})+(?:\.\d+)?(?! ?\d)"
_REST = (
    r"|(?P<degree>\^\s*\{?\s*\\circ\s*\}?)|\\(?P<command>[a-zA-Z]+|.)|(?P<letters>[a-zA-Z]+)"
    r"|(?P<op><=|>=|!=|==|\*\*|\.\.\.|[-+*/^_!()\[\]{}|,;:=<>%&?'\"#@`~])|(?P<currency>[€£¥₹¢])|(?P<row>"
    + ROW_BREAK
    + r")|(?P<space>\s+)|(?P<dot>\.)"
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
_ASCII_OPERATORS = {"<=": "≤", ">=": "≥", "!=": "≠", "==": "=", "**": "^", ";": ","}


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """Tokens of a normalised answer; `thousands`: 1,234 is one number. Raises CannotRead."""
    tokens: list[Token] = []
    text = _DOTTED_CLOCK.sub(r"\1m", text)
    _scan(text, thousands, False, tokens)
    return tokens


def _scan(text: str, thousands: bool, prose: bool, tokens: list[Token]) -> None:
    pattern, position = _TOKENS[thousands], 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None or len(tokens) > MAX_TOKENS:
            raise CannotRead(f"no token at {text[position : position + 10]!r}")
        position = match.end()
        kind, token = match.lastgroup, match.group()
        if kind == "num":
            tokens.append(Token("num", token))
        elif kind == "command":
            position = _command(match.group("command"), text, position, thousands, prose, tokens)
        elif kind == "letters":
            _letters(token, prose, tokens)
        elif kind == "op":
            tokens.append(Token("op", _ASCII_OPERATORS.get(token, token)))
        elif kind == "degree":
            tokens.append(Token("op", "°"))
        elif kind == "currency":
            tokens.append(Token("cur", _CURRENCIES[token]))
        elif kind == "row":
            tokens.append(Token("op", "row"))
        elif kind == "dot" and not prose:
            raise CannotRead("a dot on its own")


def _letters(run: str, prose: bool, tokens: list[Token]) -> None:
    """A run of letters: a known name, a word, or one variable a letter."""
    lower = run.lower()
    if run in FUNCTIONS:
        tokens.append(Token("fn", run))
    elif lower in _WORDS and (len(run) > 2 or run in _WORDS):
        tokens.append(Token(*_WORDS[lower]))
    elif prose or len(run) > 3 or _follows_value(lower, tokens):
        tokens.append(Token("word", run))
    else:
        tokens.extend(_letter(c) for c in run)


def _follows_value(run: str, tokens: list[Token]) -> bool:
    """A short unit right after a value: `5 cm`, but not the product `xcm`."""
    if run not in SHORT_UNITS or not tokens:
        return False
    kind, text = tokens[-1]
    return kind in ("num", "const") or (kind == "op" and text in (")", "}", "°", "!"))


def _letter(c: str) -> Token:
    return Token("const", c) if c in "ei" else Token("sym", c)


def _command(name: str, text: str, position: int, thousands: bool, prose: bool, tokens: list[Token]) -> int:
    """Append the tokens of a command; returns where to go on (behind the arguments that were read here)."""
    if name in _OPERATORS:
        tokens.append(Token("op", _OPERATORS[name]))
    elif name in _ARGUMENTS:
        tokens.append(Token("cmd", _ARGUMENTS[name]))
    elif name in FUNCTIONS:
        tokens.append(Token("fn", name))
    elif name in _TEXT:
        return _text_argument(name, text, position, thousands, tokens)
    elif name in _DECORATIONS or name == "mathbb":
        return _decorated(name, text, position, tokens)
    elif name in ("begin", "end"):
        return _environment(name, text, position, tokens)
    elif name in _SEPARATORS:
        tokens.append(Token("sep", _SEPARATORS[name]))
    elif name in ("pi", "infty"):
        tokens.append(Token("const", name[:3]))
    elif name in ("emptyset", "varnothing"):
        tokens.append(Token("sym", "emptyset"))
    elif name in _GREEK:
        tokens.append(Token("sym", "\\" + name))
    elif name == "$":
        tokens.append(Token("cur", "dollar"))
    elif name not in " ,;:!":
        raise CannotRead(f"unknown command {name!r}")
    return position


def _text_argument(name: str, text: str, position: int, thousands: bool, tokens: list[Token]) -> int:
    match = _NESTED.match(text, position)
    if match is None:
        return position
    inner = match.group(1).strip()
    if name == "operatorname" and inner in FUNCTIONS:
        tokens.append(Token("fn", inner))
    elif name in ("mathbf", "mathit") and len(inner) == 1:
        tokens.append(_letter(inner))
    else:
        _scan(inner, thousands, True, tokens)
    return match.end()


def _decorated(name: str, text: str, position: int, tokens: list[Token]) -> int:
    match = _BRACED.match(text, position)
    if match is None:
        match = _DECORATED_LETTER.match(text, position)
    if match is None:
        raise CannotRead(f"\\{name} without a simple argument")
    inner = match.group(1).strip()
    if name == "mathbb":
        tokens.append(Token("sym", _SETS.get(inner, inner)))
    else:
        tokens.append(Token("sym", f"\\{name}{{{inner}}}"))
    return match.end()


def _environment(name: str, text: str, position: int, tokens: list[Token]) -> int:
    match = _BRACED.match(text, position)
    if match is None:
        raise CannotRead(f"\\{name} without a name")
    tokens.append(Token(name, match.group(1).strip().rstrip("*")))
    columns = _BRACED.match(text, match.end()) if match.group(1).strip() == "array" and name == "begin" else None
    return columns.end() if columns else match.end()
