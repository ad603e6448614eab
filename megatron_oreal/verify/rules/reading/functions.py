"""Functions and commands with their arguments: \\sin^2 x, \\log_2 8, \\frac12, \\sqrt[3]{x}."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.blocks import Blocks
from megatron_oreal.verify.rules.reading.vocabulary import OF_OTHER_SCHOOLS

_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
_OF_ANGLES = frozenset((*_INVERSE, "cis"))
_OF_MANY = frozenset(("max", "min", "gcd", "lcm"))
_LOGARITHMS = frozenset(("log", "lg", "ln"))


class Functions(Blocks):
    """Reads one function or command; its arguments are read by the parser that derives from this."""

    def command(self, name: str):
        if name == "frac":
            return s.Div(self.argument(True), self.argument(True))
        if name == "binom":
            return s.Func("binom", (self.argument(True), self.argument(True)))
        degree = s.Num(Fraction(2))
        if self.accept("["):
            degree = self.inside()
            self.expect("]")
        of = self.argument(single_digit=False)
        return s.Func("root", (of, degree)) if isinstance(degree, s.Num) else s.Pow(of, s.Div(s.Num(Fraction(1)), degree))

    def function(self, name: str):
        name = OF_OTHER_SCHOOLS.get(name, name)
        base, power = self.scripts()
        if power == s.MINUS_ONE and name in _INVERSE:
            name, power = _INVERSE[name], None
        node = _call(name, base, self.function_argument(name in _INVERSE))
        return node if power is None else s.Pow(node, power)

    def function_argument(self, trigonometric: bool):
        """A bracketed group, or the factors that follow up to the next sign, function or bracket."""
        if self.at("(", "[", "{", "|", r"\{"):
            if self.at("{") or self.at("|"):
                return self.postfix(self.deeper(self.primary))
            return self.brackets() if self.at("(", "[") else self.set_braces()
        node = self.factor()
        if trigonometric and isinstance(node, s.Num) and self.at("(") and self.peek(1).kind in ("sym", "cmd"):
            return s.times(node, self.factor())  # sin 2(x + 1)
        while self.next.kind in ("sym", "const", "cmd"):
            node = s.times(node, self.factor())
        return node


def _call(name: str, base, argument):
    """The function of an argument; `base` of a logarithm, or None."""
    if name in _OF_MANY:
        return s.Func(name, argument.items if isinstance(argument, (s.Bracketed, s.Listing)) else (argument,))
    if name == "log" and base is None and isinstance(argument, s.Bracketed) and len(argument.items) == 2:  # log(8, 2)
        argument, base = argument.items
    if name in _LOGARITHMS:
        if name == "lg":
            base = s.Num(Fraction(10))
        elif base == s.Const("e"):
            name, base = "ln", None
        logarithm = s.Func("ln" if name == "ln" or base is not None else "log", (argument,))
        return logarithm if base is None else s.Div(logarithm, s.Func("ln", (base,)))
    if name in _OF_ANGLES and any(isinstance(n, s.Func) and n.name == "degrees" for n in s.walk(argument)):
        argument = _radians(argument)
    if name == "cis":
        return s.Pow(s.Const("e"), s.Mul((s.Const("i"), argument)))
    return s.Pow(s.Const("e"), argument) if name == "exp" else s.Func(name, (argument,))


def _radians(node):
    if isinstance(node, s.Func) and node.name == "degrees":
        return s.Mul((node.args[0], s.Const("pi"), s.Num(Fraction(1, 180))))
    return s.rebuild(node, _radians)
