"""Mathematics typed without LaTeX, and notations of other schools, in the LaTeX that the grammar reads."""

import re

from megatron_oreal.verify.rules.wording.families import with_conditions

_BASIS = r"\\?(?:imath|jmath|[ijk])"
_DECOR = r"\\(?:hat|vec|overrightarrow|mathbf|bm|boldsymbol|widehat|mathrm|bf|pmb|underline)"
_UNIT_VECTOR = re.compile(
    rf"{_DECOR}\s*\{{\s*{_DECOR}\s*\{{?\s*({_BASIS})\s*\}}?\s*\}}|{_DECOR}\s*(?:\{{\s*({_BASIS})\s*\}}|({_BASIS})(?![a-zA-Z]))"
)
_MACRO = re.compile(r"\\([a-z]+)")


def _with_unit(match: re.Match) -> str:
    return match.group(1) + r"\text{ " + _MACRO.sub(r" \1 ", match.group(2)) + "}"


_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", _with_unit),
        (r"(?<![a-zA-Z\\])([aA]bs|floor|ceil|ceiling)\s*(?=\()", r"\\operatorname{\1}"),
        (r"(?<![a-zA-Z])per\s?cent(?![a-zA-Z])", "percent"),
        (r"(?<![a-zA-Z])US\s*(?=\\\$)", ""),
        (r"\\mu\s*\\(text|mathrm)\s*\{\s*(?=[a-zA-Z])", r"\\\1{ micro"),
        (r"\\underset\s*\{([^{}]*)\}\s*\{\s*\\(lim|max|min)\s*\}", r"\\\2_{\1}"),
        (r"\\num\s*\{([^{}]*)\}", r"\1"),
        (r"\\ang\s*\{([^{}]*)\}", r"\1^{\\circ}"),
        (r"(?<=[)\]}])\s*[uU]\s*(?=[\[({])", r" \\cup "),
        (r"(?<![a-zA-Z\\])oo(?![a-zA-Z])", r"\\infty "),
        (r"\+\s*/\s*-|^\+-(?=\s*[\d\\a-z])", r"\\pm "),
        (r"(?:Matrix|np\.array)\s*\((\[.*\])\)", r"\1"),
        (r"(?<=\d),(\d+\s*\\times\s*10\s*\^)", r".\1"),
        (r"(?<=\d)\s*\^\s*(?:o(?![a-z])|\{\s*(?:\\(?:text|mathrm)\s*\{)?\s*o\s*\}?\s*\})", r"^{\\circ}"),
        (r"(\\overline\s*\{\d+\})\s*(?:\\[lc]?dots|\.\.\.)", r"\1"),
        (r"=<", r"\\le "),
        (r"(?<=[a-zA-Z])_\(([^()]{1,12})\)", r"_{\1}"),
        (r"(?<![a-zA-Z\\])log(2|10)\s*(?=\()", r"\\log_{\1}"),
        (r"(?<![a-zA-Z\\])cbrt\s*\(([^()]*)\)", r"\\sqrt[3]{\1}"),
        (r"(?<![a-zA-Z\\])root\s*\(\s*(\d{1,3})\s*\)\s*\(([^()]*)\)", r"\\sqrt[\1]{\2}"),
        (r"(?<![a-zA-Z\\])n(C|P)r\s*\(\s*(\w{1,9})\s*,\s*(\w{1,9})\s*\)", r"\1(\2,\3)"),
        (r"(?<![a-zA-Z\\])(?:binom|comb|choose)\s*\(\s*(\w{1,9})\s*,\s*(\w{1,9})\s*\)", r"\\binom{\1}{\2}"),
        (r"(?<![a-zA-Z\\\d.])(\d{1,4})\s?C\s?(\d{1,4})(?![\d._a-zA-Z])", r"\\binom{\1}{\2}"),
        (r"\\nleq?(?![a-z])|\\not\s*\\leq?(?![a-z])", ">"),
        (r"\\ngeq?(?![a-z])|\\not\s*\\geq?(?![a-z])", "<"),
        (r"(?<![a-zA-Z])([a-z])\s*:\s*([a-z])\s*\\(?:mapsto|to|rightarrow)(?![a-z])", r"\1(\2) ="),
        (r"\\lVert|\\rVert|\\Vert", r"\\|"),
    )
)
_NOTABLE = re.compile(
    r"[aA]bs|floor|ceil|per\s?cent|,\d+\s*\\times|\^\s*\{?\s*o|\{\s*o|overline|US|Matrix|array|\\underset|\\mu|\\(?:SI|qty|num|ang|n[lg]eq?|not|[lr]?Vert|mapsto|to|rightarrow)(?![a-z])|oo|[uU]|/\s*-|^\+-|=<|_\(|log|cbrt|root|C|P|binom|comb|choose"
)
_KIND = r"(?<![a-zA-Z\\])(?:\\(?:mathrm|text|rm)\s*\{\s*)?(?P<kind>[PAC])\s*\}?"
_N, _K = r"(?:\{(?P<n>[\w+ -]+)\}|(?P<n1>\w))", r"(?:\{(?P<k>[\w+ -]+)\}|(?P<k1>\w))"
_COUNTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:\{{\s*\}})?\s*[_^]\s*{_N}\s*(?:\\(?:mathrm|text)\s*\{{\s*)?(?P<kind>[PAC])\s*\}}?\s*_\s*{_K}",
        rf"{_KIND}\s*_\s*{_N}\s*\^\s*{_K}",
        rf"{_KIND}\s*\^\s*{_K}\s*_\s*{_N}",
        r"(?<![a-zA-Z\\\d])(?P<kind>[PAC])\s*\(\s*(?P<n>\w{1,9})\s*,\s*(?P<k>\w{1,9})\s*\)",
        r"(?<![a-zA-Z\\\d.])(?P<n>\d{1,4})\s?(?P<kind>P)\s?(?P<k>\d{1,4})(?![\d._a-zA-Z])",
        r"(?<![a-zA-Z\\\d])(?P<kind>P)\s*_\s*(?:\{(?P<n>\d+)\}|(?P<n1>\d))(?![\d^])",
    )
)
_UNIT = r"(?:\\(?:text|mathrm|textrm)\s*\{[^{}]{1,20}\}(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?\s*(?:\\cdot)?\s*)+"
_QUOTIENT = re.compile(rf"\\[dt]?frac\s*\{{\s*({_UNIT})\}}\s*\{{\s*({_UNIT})\}}")
_BARE_UNIT = re.compile(
    r"(?<=[\d})])\s(?P<unit>(?:(?:km|cm|mm|dm|kg|mg|mi|ft|in|yd|ml|mL|m|s|g|h|L|N|J|W)(?:\s*\^\s*\{?\s*-?\d\s*\}?)?(?:\s*[/*]\s*|\s*\\cdot\s*|\s+)?){1,4})$"
)


_QUOTIENT_OF_LETTERS = re.compile(
    r"(?<=[\d})])\s*\\[dt]?frac\s*\{\s*(?P<top>km|cm|m|mi|ft|kg|g|L|J|N|W)\s*\}\s*\{\s*(?P<bottom>s|h|min|hr|m|cm|L|kg|mol)(?P<power>\s*\^\s*\{?\s*\d\s*\}?)?\s*\}$"
)
"""2.5 \\frac{m}{s}"""


_OHMS = re.compile(r"(?<=[\d}])\s*(?:\\(?:mathrm|text)\s*\{\s*)?\\Omega\s*\}?$")


_DOMAIN = re.compile(
    r"(?<=[\w})])\s*(?:[,(]|\\text\s*\{\s*[,(]?\s*(?:where|for|with|provided|when)\s*(?:that)?\s*\})\s*[a-zA-Z](?:_\w)?\s*"
    r"(?:\\(?:ge|geq|geqslant|ne|neq)(?![a-z])\s*-?\w+|\\in\s*\\mathbb\{?[RNZ]\+?\}?|>\s*0)\s*\)?$"
)
"""Where a formula holds: the other side may leave it out."""
_WHOLE_LETTER = re.compile(r"\s*,\s*[kmn]\s*\\in\s*\\mathbb\s*\{?[ZN]\+?\}?$")
"""n \\ge 3, n \\in N: that n is whole goes without saying."""
_EVERYWHERE = re.compile(
    r"(?<=[\w})])\s*,?\s*\\forall\s*[xyzkmn](?:\s*\\in\s*\\mathbb\{?[RNZ]\+?\}?)?$|"
    r"(?<=[\w})])\s*,?\s*(?:\\text\s*\{\s*)?\(?,?\s*for (?:all|every|any|each)(?: real| values of)?(?: numbers?)?\s*\}?"
    r"\s*\$?[xyzkmn]\s*\}?\)?"
    r"(?:\s*\\in\s*\\mathbb\{?[RNZ]\+?\}?)?\s*\}?$"
)
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])[Ij](?![a-zA-Z])")
_OTHER_LETTERS = re.compile(r"(?<![a-zA-Z\\])(?![Ij](?![a-zA-Z]))[a-zA-Z]|^[^Ij]*$")
_PERIOD = re.compile(r"(-?\d*\.\d+)\((\d+)\)")
_WHOLE = re.compile(r"(?:[a-zA-Z]\s*=\s*)?-?\d+")
_COMMA = re.compile(r"-?\d+,\d{1,2}")
_CONDITION = re.compile(r"\\(?:in|ge|geq|geqslant|le|leq|leqslant|ne|neq)(?![a-z])|[<>∈]|integer")


def in_latex(text: str) -> str:
    """The text with each such notation in LaTeX, where it can mean nothing else."""
    if _NOTABLE.search(text):
        for pattern, replacement in _SPELLINGS:
            text = pattern.sub(replacement, text)
    if "frac" in text and ("text" in text or "mathrm" in text):
        text = _QUOTIENT.sub(lambda m: f"{m.group(1)}/({m.group(2)})", text)
    if "for" in text:
        text = _EVERYWHERE.sub("", text)
    return " ".join(_with_unit_vectors(text).split())  # patterns to come look for single spaces, and take no time over long ones


def _with_unit_vectors(text: str) -> str:
    """i, j and k as decorated letters, where at least two of them are."""
    letters = {_letter(match) for match in _UNIT_VECTOR.finditer(text)}
    return _UNIT_VECTOR.sub(lambda match: rf"\hat{{{_letter(match)}}}", text) if len(letters) > 1 else text


def _letter(match: re.Match) -> str:
    name = (match.group(1) or match.group(2) or match.group(3)).lstrip("\\")
    return name[0]


def other_readings(text: str, other: str) -> list[str]:
    """What the text may mean as well: 9.8 m/s^2 with its unit, P_5^2 as a number of permutations. For where the first reading fails."""
    text, readings = in_latex(text), []
    if _OHMS.search(text):
        readings.append(_OHMS.sub(r"\\text{ ohms}", text))
    quotient = _QUOTIENT_OF_LETTERS.search(text)
    if quotient:
        named = quotient.groupdict("")
        readings.append(rf"{text[: quotient.start()]}\text{{ {named['top']}/{named['bottom']}{named['power']} }}")
    unit = _BARE_UNIT.search(text)
    if unit and ("/" in unit["unit"] or len(unit["unit"].strip()) > 1) and re.search(r"[/ *]|\\cdot|[a-zA-Z]{2}", unit["unit"].strip()):
        readings.append(rf"{text[: unit.start()]}\text{{ {unit['unit']} }}")
    text = with_conditions(text)
    if "i" in other and "," not in text and not _OTHER_LETTERS.search(text):
        readings.append(_IMAGINARY.sub("i", text))
    period = _PERIOD.fullmatch(text)
    if period:
        readings.append(rf"{period.group(1)}\overline{{{period.group(2)}}}")
    if "," not in other and _COMMA.fullmatch(text) and not _WHOLE.fullmatch(other):  # -3,0 are two
        readings.append(text.replace(",", "."))
    freed = text if _CONDITION.search(other) else _DOMAIN.sub("", text)
    whole = _WHOLE_LETTER.search(text)
    if whole and "\\in" not in other:
        readings.append(text[: whole.start()])
    if freed != text and freed.count("{") == freed.count("}") and not _CONDITION.search(freed):
        readings.append(freed)
    counted = text
    for pattern in _COUNTS:
        counted = pattern.sub(_counted, counted)
    return [*readings, counted] if counted != text else readings


def _counted(match: re.Match) -> str:
    """Combinations and permutations of n things, k at a time, whichever of the two stands above; P_5 is 5!."""
    named = match.groupdict()
    n, k = ((named.get(name) or named.get(f"{name}1") or "").strip() for name in "nk")
    if not k:
        return f"({n}!)"
    if n.isdigit() and k.isdigit() and int(n) < int(k):
        if "^" not in match.group():
            return match.group()
        n, k = k, n
    return rf"\binom{{{n}}}{{{k}}}" if match["kind"] == "C" else rf"\frac{{({n})!}}{{({n}-({k}))!}}"
