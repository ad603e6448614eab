"""The LaTeX commands and words that the lexer knows: data only."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FUNCTIONS = words(
    """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth sech csch
    arsinh arcosh artanh ln log lg exp max min gcd lcm cis det tg ctg cotg arctg arcctg cosec arccosec"""
)
OF_OTHER_SCHOOLS = {
    "tg": "tan", "ctg": "cot", "cotg": "cot", "arctg": "arctan", "arcctg": "arccot", "cosec": "csc", "arccosec": "arccsc", "Abs": "abs",
    "ceiling": "ceil", "sh": "sinh", "ch": "cosh", "th": "tanh",
}  # fmt: skip
"""Names of functions -> ours."""
OPERATOR_NAMES = words("abs Abs floor ceil ceiling arctg arcctg")
"""Functions only where they are set as such, or stand before a bracket."""
FUNCTIONS_IN_TEXT = FUNCTIONS - {"min", "max", "sec", "lg"}
"""Within \\text, min and sec are minutes and seconds."""

LETTERS = words(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar angle triangle circ
    star partial nabla Re Im aleph top intercal complement"""
)
ELLIPSES = words("ldots dots cdots dotsc dotsb")
EMPTY_SETS = words("emptyset varnothing")
OPERATORS = {
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "cup": "∪", "bigcup": "∪", "cap": "∩",
    "bigcap": "∩", "setminus": "∖", "backslash": "∖", "le": "≤", "leq": "≤", "leqslant": "≤", "leqq": "≤", "ge": "≥",
    "geq": "≥", "geqslant": "≥", "geqq": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "not": "not", "in": "∈",
    "notin": "∉", "approx": "≈", "sim": "~", "simeq": "≈", "cong": "≅", "equiv": "≡", "colon": ":", "mid": "|",
    "vert": "|", "lvert": "|", "rvert": "|", "Vert": "‖", "lVert": "‖", "rVert": "‖", "lfloor": "⌊", "rfloor": "⌋",
    "lceil": "⌈", "rceil": "⌉", "langle": "(", "rangle": ")", "lbrace": r"\{", "rbrace": r"\}", "lparen": "(",
    "rparen": ")", "lbrack": "[", "rbrack": "]", "degree": "°", "percent": "%", "propto": "∝", "to": "→",
    "rightarrow": "→", "mapsto": "→", "Rightarrow": "⇒", "implies": "⇒", "iff": "⇔", "Leftrightarrow": "⇔", "perp": "⊥",
    "parallel": "∥", "prime": "'", "bmod": "mod", "pmod": "mod", "int": "∫", "sum": "∑", "prod": "∏",
    "subset": "⊂", "subseteq": "⊆", "choose": "choose",
    "over": "over", "{": r"\{", "}": r"\}", "|": "‖", "%": "%", "#": "#", "&": "&", "_": "_",
}  # fmt: skip
TEXT = words(
    """text textbf textit textrm textsf texttt textnormal mathrm mathbf mathit mathsf boldsymbol mbox hbox operatorname emph
    mathtt bm pmb"""
)
MATH_ALPHABETS = words("mathbf mathit mathsf boldsymbol bm pmb mathtt")
DECORATIONS = words(
    """overline bar hat vec tilde widehat widetilde dot ddot underline overrightarrow overarc overleftrightarrow mathcal
    mathfrak mathscr"""
)
SAME_DECORATION = {"overrightarrow": "vec", "widehat": "hat", "widetilde": "tilde", "overline": "bar"}
ARGUMENTS = {
    "nicefrac": "frac", "sfrac": "frac", "frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "sqrt": "sqrt",
    "binom": "binom", "dbinom": "binom", "tbinom": "binom",
}  # fmt: skip
SETS = {"R": "reals", "Z": "integers", "N": "naturals", "N+": "naturals from 1", "Q": "rationals", "C": "complexes"}
SEPARATORS = {"lor": "or", "vee": "or", "land": "and", "wedge": "and"}
CURRENCIES = {"$": "dollar", "€": "euro", "£": "sterling", "¥": "yen", "₹": "rupee", "¢": "cent"}
CURRENCY_CODES = {"USD": "dollar", "EUR": "euro", "GBP": "sterling", "Rs": "rupee", "INR": "rupee"}
KNOWN_WORDS = {
    "pi": ("const", "pi"), "infinity": ("const", "inf"), "infty": ("const", "inf"), "inf": ("const", "inf"),
    "sqrt": ("cmd", "sqrt"), "and": ("sep", "and"), "or": ("sep", "or"), "to": ("word", "to"),
    "theta": ("sym", "\\theta"), "alpha": ("sym", "\\alpha"), "beta": ("sym", "\\beta"), "gamma": ("sym", "\\gamma"),
    "delta": ("sym", "\\delta"), "lambda": ("sym", "\\lambda"), "omega": ("sym", "\\omega"), "sigma": ("sym", "\\sigma"),
    "epsilon": ("sym", "\\epsilon"), "phi": ("sym", "\\phi"), "rho": ("sym", "\\rho"), "tau": ("sym", "\\tau"),
    "per": ("word", "per"), "one": ("word", "one"), "two": ("word", "two"), "six": ("word", "six"), "ten": ("word", "ten"),
}  # fmt: skip
ASCII_OPERATORS = {"<=": "≤", ">=": "≥", "!=": "≠", "==": "=", "**": "^"}
