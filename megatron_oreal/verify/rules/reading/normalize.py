"""One normaliser for gold and answer: characters and styling, never values."""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "•": r"\cdot ", "∗": "*", "÷": r"\div ", "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3] ",
    "∜": r"\sqrt[4] ", "π": r"\pi ", "∞": r"\infty ", "°": r"^{\circ}", "˚": r"^{\circ}", "º": r"^{\circ}", "≤": r"\le ",
    "≥": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ",
    "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "∨": r"\lor ", "∧": r"\land ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}",
    "⅞": r"\frac{7}{8}", "“": '"', "”": '"', "‘": "'", "’": "'", "′": "'", "″": "''", "、": ",", "。": ".", "〈": "(", "〉": ")",
    "⟨": r"\langle ", "⟩": r"\rangle ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "ω": r"\omega ", "μ": r"\mu ", "σ": r"\sigma ", "ρ": r"\rho ", "δ": r"\delta ", "Δ": r"\Delta ",
    "ε": r"\epsilon ", "τ": r"\tau ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "∠": r"\angle ", "…": r"\ldots ",
}  # fmt: skip
_CHARACTER_TABLE = str.maketrans(_CHARACTERS)

ROW_BREAK = "\x01"
"""Stands for the two backslashes that end a row, so that no pattern takes the second for the start of a command."""

_STYLING = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|large|Large|LARGE|huge|bf|rm|it|tt|sf|sc|em|boldsymbol|quad|qquad|hfill"
    r"|noindent|checkmark|blacksquare|square|Box|qed|therefore|hline|ensuremath)(?![a-zA-Z])"
    r"|\\[hv]space\*?\{[^{}]*\}|\\(?:label|tag|color|[hv]?phantom)\*?\{[^{}]*\}|\\(?:textcolor|colorbox)\{[^{}]*\}|\\(?:boxed|fbox|underline)(?=\s*\{)"
)
_CONTROLS = {code: None for code in (*range(9), *range(11, 32), 127) if code != 13}
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"), ("&nbsp;", " "))
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|\\ |\\;|\\:|\{\\,\}|~|'(?=\d{3}(?!\d)))\s*(?=\d{3}(?!\d))")
_TEN_TO_THE = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_SPACES = re.compile(r"(?:\\[,;:!> ]|~|\s)+")
_DOLLARS = re.compile(r"(?<!\\)\$|\\\(|\\\)|\\\[|\\\]")
_MARKDOWN = re.compile(r"\s*(\*\*|\*|`|\"|''|'|_)([^*`\"]+)(\*\*|\*|`|\"|''|'|_)\s*[.]?\s*")
_ENDS = re.compile(r"^(?::|=(?!=)|\\(?:Rightarrow|implies|Longrightarrow|rightarrow|to)(?![a-zA-Z])|\s)+|(?:\\|\x01|\s)+$")
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\pounds(?![a-z])", "£"),
        (r"\{([:.;])\}", r"\1"),
        (r"\\(?:mathbf|textbf|mathrm|text)\s*\{\s*(\\text(?:bf|it|rm)?\s*\{[^{}]*\})\s*\}", r"\1"),
        (r"\\mathcal\s*\{?\s*O\s*\}?(?=\s*\()", "O"),
        (r"(?<=\d)\{,\}(?=\d{1,2}(?!\d))", "."),  # a braced comma is no separator of a list
        (r"(?<!\\)\{\s*\}", ""),
        (r"(?<![\\_^a-zA-Z}\]])\{(\s*[a-zA-Z]\s*(?:\\in[^|:{}]*(?:\{[A-Z]\}\s*)?)?(?:\||\\mid(?![a-zA-Z])|:)[^{}]*)(?<!\\)\}", r"\\{\1\\}"),
        (
            r"\\\{\s*\\begin\s*\{(?:aligned|align\*?|matrix|gathered|split)\}((?:(?!\\end).)*)\\end\s*\{[a-z*]+\}(?!\s*\\\})",
            r"\\begin{cases}\1\\end{cases}",
        ),
        (r"(?<=\d)\s*\^\s*\{?\s*(?:st|nd|rd|th)(?![a-z])\s*\}?", ""),
        (r"\\(?:mathbf|Bbb|mathds)\s*\{\s*([RZNQ])\s*\}|\\([RZNQ])(?![a-zA-Z])", r"\\mathbb{\1\2}"),
        (r"\\mathbb\s*\{?R\}?\s*(?:\^\s*\{?\s*\+\s*\}?|_\s*\{?\s*(?:\+|>\s*0)\s*\}?)", r"(0,\\infty)"),
        (r"\\mathbb\s*\{?R\}?\s*\^\s*\{?\s*(?:\*|\\ast|\\times)\s*\}?$", r"(-\\infty,0) \\cup (0,\\infty)"),
        (r"\\(?:text|mathrm|operatorname|textrm|mbox)\s*\{\s*\(?\s*mod(?:ulo)?\s+(\w+)\s*\)?\s*\}", r"\\pmod{\1}"),
        (r"\\(?:text|mathrm|operatorname|textrm|mbox)\s*\{\s*mod\s*\}|\\mod(?![a-zA-Z])|(?<![\\a-zA-Z])mod(?![a-zA-Z])", r"\\bmod "),
        (r"\(\s*\\bmod\s*([^()]*)\)", r"\\pmod{\1}"),
        (r"\(\s*(?:\\approx|\\text\s*\{\s*(?:or )?(?:approximately|approx\.?|about)\s*\})[^()]*\)$", ""),
        (r"_\s*\{?(\d+)\}?\s*C\s*_\s*(?:\{(\d+)\}|(\d))", r"\\binom{\1}{\2\3}"),
        (r"(?<![a-zA-Z\\])C\s*_\s*(?:\{(\d+)\}|(\d))\s*\^\s*(?:\{(\d+)\}|(\d))", r"\\binom{\1\2}{\3\4}"),
        (r"\\(?:mathrm|text)\s*\{C\}\s*_\s*(?:\{(\d+)\}|(\d))\s*\^\s*(?:\{(\d+)\}|(\d))", r"\\binom{\1\2}{\3\4}"),
        (r"\x01\s*\[[\d. ]*(?:pt|em|ex|mm|cm|in)\]|\\cr(?![a-zA-Z])|\\tabularnewline", ROW_BREAK),
        (r"\x01\s*&?\s*(?==)|\s*&\s*(?=(?:[<>=]|\\(?:leq?|geq?|neq?|in|approx|equiv|leqslant|geqslant)(?![a-z])))", " "),
        (r"(?<==)\s*&", " "),
        (r"\\\{\s*\\begin\s*\{array\}\s*\{[^{}]*\}((?:(?!\\end).)*)\\end\s*\{array\}(?!\s*\\\})", r"\\begin{cases}\1\\end{cases}"),
    )
)
_OUTSIDE_BRACKETS = re.compile(
    r"(?:^|(?<==)|(?<=\\in)|(?<=\\cup)|(?<=\\cap)|(?<=\\setminus))(\s*)([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])"
)

_CIRCLED = re.compile("([\u2460-\u2473])\\s*[,，、和]?\\s*(?=[\u2460-\u2473])")
"""Statements by number: 1 and 3 in circles are a list, not thirteen."""
_EMPTY = re.compile(r"\s*\$*\s*\{\s*\}\s*\$*\s*")

_METRES = re.compile(r"(?<=\d)\s*m([²³])")
"""15m² is an area; 15m^2 is a product."""


def _scripts(text: str) -> str:
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    return re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)


def _plain_characters(text: str) -> str:
    """ASCII where a look-alike stands for it (full-width forms, typographic signs, super- and subscripts)."""
    if text.isascii():
        return text
    text = _METRES.sub(r"\\text{ m}\1", text)
    text = unicodedata.normalize("NFKC", _scripts(text).translate(_CHARACTER_TABLE)).translate(_CHARACTER_TABLE)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Mn") or c in "\n\t")


def normalize(text: str) -> str:
    """LaTeX without styling, math delimiters and spacing commands; single spaces; no full stop at the end."""
    text = _plain_characters(_CIRCLED.sub(r"\1, ", text)).translate(_CONTROLS)
    if _EMPTY.fullmatch(text):
        return r"\emptyset"
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = text.replace("\\\\", ROW_BREAK if "\\begin" in text else "\\")  # without a matrix it is an escaped backslash
    text = _STYLING.sub(" ", text)
    text = _GROUPED.sub("", text)
    text = _TEN_TO_THE.sub(r"\\times ", _DOLLARS.sub(" ", text))
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _ENDS.sub("", _SPACES.sub(" ", text))
    text = _OUTSIDE_BRACKETS.sub(_turned_inward, _unquoted(text))
    text = text if text.endswith("...") else text.rstrip(" .,;")
    return _without_group(_without_alphabet(text.strip()))


def _without_alphabet(text: str) -> str:
    """\\mathbf{2xy + 1} and \\text{3xy} as the formula within; letters alone stay what they are."""
    match = _SET_WHOLE.fullmatch(text)
    if match is None or match["inner"].count("{") != match["inner"].count("}") or "}" in match["inner"].partition("{")[0]:
        return text
    wordy = _WORDS_WITHIN if match["alphabet"].startswith("text") else _LETTERS_ALONE
    return text if wordy.search(match["inner"]) or not _FORMULA.search(match["inner"]) else match["inner"].strip()


def _unquoted(text: str) -> str:
    """Without the Markdown or the quotation marks around the whole."""
    quoted = _MARKDOWN.fullmatch(text)
    return quoted.group(2) if quoted and quoted.group(1) == quoted.group(3) else text


def _turned_inward(match: re.Match) -> str:
    """]a, b[ as (a, b): brackets that face away are open ends."""
    space, left, inside, right = match.groups()
    return f"{space}{'[' if left == '[' else '('}{inside}{']' if right == ']' else ')'}"


def _without_group(text: str) -> str:
    """{5} as 5; {1, 2} stays, for it may be meant as a set."""
    if not text.startswith("{") or "," in text:
        return text
    level = 0
    for position, character in enumerate(text):
        level += {"{": 1, "}": -1}.get(character, 0)
        if level == 0:
            return text[1:-1].strip() if position == len(text) - 1 else text
    return text


_SET_WHOLE = re.compile(r"\\(?P<alphabet>mathbf|mathit|mathsf|textbf|text|textit|textrm)\s*\{(?P<inner>.*)\}", re.DOTALL)
_FORMULA = re.compile(r"\d[a-zA-Z]|[-+=^<>()]|\\[a-zA-Z]")
_WORDS_WITHIN = re.compile(r"[a-zA-Z]{4}|[a-zA-Z]{2,}\s|\s[a-zA-Z]{2}|\d\s+[a-zA-Z]|[a-zA-Z][.:]|\d-[a-zA-Z]|^\(?[A-Z]\)|^[-a-zA-Z() ]*$")
_LETTERS_ALONE = re.compile(r"^[a-zA-Z() ]*$")
_LONE_SCRIPT = re.compile(r"([_^])\{(\w)\}(?!\w)")
_IDLE_SPACE = re.compile(r"(?<!\d) | (?!\d)")


def squeeze(text: str) -> str:
    """Without spaces (but for those between digits), and x^2 for x^{2}: what string equality compares."""
    return _IDLE_SPACE.sub("", _LONE_SCRIPT.sub(r"\1\2", text))
