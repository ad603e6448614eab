"""The operands of a sum or product: numbers, letters, brackets, functions and commands, with what is written after them."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.blocks import Blocks
from megatron_oreal.verify.rules.reading.lexer import CannotRead, Token
from megatron_oreal.verify.rules.reading.numerals import SCALES, number, spelled
from megatron_oreal.verify.rules.reading.stream import END
from megatron_oreal.verify.rules.reading.units import CANONICAL
from megatron_oreal.verify.rules.reading.vocabulary import words

MINUS_ONE = s.Num(Fraction(-1))
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
_TRIGONOMETRIC = words("sin cos tan cot sec csc")
_FIGURES = words("\\angle \\triangle")
_APPLIED = frozenset("fghpqFGHPQRST")
_ENDINGS = words("st nd rd th")
_ORDINALS = frozenset(s.Sym(ending, text=True) for ending in _ENDINGS)
_ARTICLES = (["there", "is"], ["there", "are"], ["it", "is"], ["a"], ["an"], ["the"])


class Operands(Blocks):
    """Reads one operand. What stands in brackets is read by `listing` and `sum` of the parser that derives from this."""

    def factor(self):
        if self.accept("-"):
            return times(MINUS_ONE, self.deeper(self.factor))
        if self.accept("+"):
            return self.deeper(self.factor)
        if self.next.kind == "cur":
            unit = self.take().text
            return s.Quantity(self.deeper(self.factor), unit)
        return self.postfix(self.deeper(self.primary))

    def postfix(self, node):
        while self.next.kind == "op":
            if self.at("^"):
                self.take()
                node = self.power(node)
            elif self.at("!"):
                self.take()
                node = s.Func("double factorial" if self.accept("!") else "factorial", (node,))
                if self.at("!"):
                    raise CannotRead("a factorial of many signs")
            elif self.at("°"):
                self.take()
                node = self.degrees(node)
            elif self.at('"', "'") and isinstance(node, (s.Num, s.Div)):
                node = self.inches(node)
            elif self.at("%"):
                self.take()
                node = s.Quantity(node, "percent")
            elif self.at("'") and isinstance(node, s.Sym):
                self.take()
                node = self.applied(node.name, s.Sym(node.name + "'"), "'")
            elif self.at("_"):
                self.take()
                node = self.subscripted(node)
            else:
                break
        return node

    def degrees(self, node):
        """30°, 30° 15' 20" and 98.6° F; the sign is taken."""
        if self.next.text in ("C", "F") and self.next.kind in ("sym", "word"):
            return s.Quantity(s.Func("degrees", (node,)), self.take().text.lower())
        for part, mark in ((60, "'"), (3600, '"')):
            if self.next.kind == "num" and self.peek(1).text == mark:
                node = s.Add((node, s.Num(number(self.take().text) / part)))
                self.take()
        return s.Func("degrees", (node,))

    def inches(self, node):
        """12" and 12'', after a number; a single stroke may be feet or minutes."""
        strokes = self.take().text
        strokes += self.take().text if strokes == "'" and self.at("'") else ""
        return s.Quantity(node, "" if strokes == "'" else "in")

    def power(self, base):
        if self.accept("*"):
            return s.Sym(base.name + "*") if isinstance(base, s.Sym) else base
        exponent = self.argument(single_digit=False)
        if self.at("^"):  # a^b^c is a^(b^c)
            exponent = self.deeper(self.postfix, exponent)
        if exponent in _ORDINALS:
            return base
        if exponent == s.Sym("'"):
            return s.Sym(base.name + "'") if isinstance(base, s.Sym) else base
        if isinstance(base, s.Quantity):
            return s.Quantity(s.Pow(base.value, exponent), base.unit)
        if isinstance(base, s.Sym) and exponent == MINUS_ONE:
            return self.applied(base.name, s.Pow(base, exponent), "^-1")
        return s.Pow(base, exponent)

    def subscripted(self, node):
        start = self.position
        if self.accept("{"):
            level = 1
            while level:
                token = self.take()
                if token is END:
                    raise CannotRead("an open subscript")
                level += (token.text == "{") - (token.text == "}")
            name = "".join(token.text for token in self.tokens[start + 1 : self.position - 1])
        else:
            name = self.take().text
        if isinstance(node, s.Num) and node.value.denominator == 1 and name.isdigit() and int(name) <= 99:
            return s.Based(str(node.value), int(name))
        if isinstance(node, (s.Sym, s.Const)) and name:
            return s.Sym(f"{node.name}_{name}")
        raise CannotRead("a subscript of what is no letter")

    def argument(self, single_digit: bool):
        """Of a command or of ^: a braced group, or the next thing (one digit of a number for \\frac12)."""
        if self.at("{"):
            return self.braces()
        kind, text = self.next
        if kind == "num" and single_digit and len(text) > 1:
            if not text.isdigit():
                raise CannotRead("\\frac before a decimal")
            self.tokens[self.position] = Token("num", text[1:])
            return s.Num(Fraction(text[0]))
        if kind == "op" and text == "-":
            self.take()
            return times(MINUS_ONE, self.argument(single_digit))
        if kind == "op" and text == "'":
            self.take()
            return s.Sym("'")
        return self.deeper(self.primary)

    def primary(self):
        kind, text = self.next
        if kind == "op":
            return self.opened(text)
        if kind == "word":
            return self.phrase()
        self.take()
        if kind == "num":
            return s.Num(number(text))
        if kind == "sym":
            return self.symbol(text)
        if kind == "const":
            return s.Const(text)
        if kind == "fn":
            return self.function(text)
        if kind == "cmd":
            return self.command(text)
        if kind == "begin":
            return self.environment(text)
        raise CannotRead(f"{text!r} is out of place")

    def opened(self, text: str):
        if text in ("(", "[", "]"):
            return self.brackets()
        if text == r"\{":
            return self.set_braces()
        if text == "{":
            return self.braces()
        if text == "|":
            self.take()
            self.bars += 1
            inner = self.sum()
            self.expect("|")
            self.bars -= 1
            return s.Func("abs", (inner,))
        if text in ("⌊", "⌈"):
            self.take()
            inner = self.sum()
            self.expect("⌋" if text == "⌊" else "⌉")
            return s.Func("floor" if text == "⌊" else "ceil", (inner,))
        if text in ("∑", "∏"):
            return self.series(self.take().text)
        if text == "∫":
            return self.integral()
        raise CannotRead(f"{text!r} is out of place")

    def inside(self, colon_free: bool = False):
        """A listing in fresh brackets: bars and colons outside do not reach in."""
        bars, colon, self.bars, self.colon_free = self.bars, self.colon_free, 0, colon_free
        inner = self.listing()
        self.bars, self.colon_free = bars, colon
        return inner

    def brackets(self):
        left = "[" if self.take().text == "[" else "("  # ]a, b[ is open
        if left == "(" and self.tokens[self.position - 1].text == "(" and self.at(")"):
            raise CannotRead("empty brackets")
        inner = self.inside()
        right = self.expect(")", "]", "[")
        right = "]" if right == "]" else ")"
        if isinstance(inner, s.Listing) and not inner.braced:
            return s.Bracketed(left, inner.items, right)
        if (left, right) in (("(", ")"), ("[", "]")):
            return inner
        raise CannotRead("brackets that do not match")

    def set_braces(self):
        self.take()
        if self.accept(r"\}"):
            return s.Sym("emptyset")
        inner = self.inside(colon_free=True)
        if self.accept(":", "|"):
            inner = s.Condition(inner, self.inside())
            self.expect(r"\}")
            return inner
        self.expect(r"\}")
        return s.Listing(inner.items if isinstance(inner, s.Listing) and not inner.braced else (inner,), braced=True)

    def braces(self):
        self.expect("{")
        if self.accept("}"):
            return self.deeper(self.primary)  # { }26: an empty group before the value
        inner = self.stacked(self.inside())
        self.expect("}")
        if isinstance(inner, s.Listing) and not inner.braced:
            return s.Listing(inner.items, braced=False)  # in LaTeX these braces do not show
        return inner

    def stacked(self, upper):
        """n \\choose k, a \\over b."""
        if self.accept("choose"):
            return s.Func("binom", (upper, self.inside()))
        return s.Div(upper, self.inside()) if self.accept("over") else upper

    def symbol(self, name: str):
        if name in _FIGURES:
            return self.figure(name)
        return self.applied(name, s.Sym(name), "")

    def figure(self, name: str):
        """The angle or triangle of the points that follow; ABC is CBA."""
        points = []
        while self.next.kind == "sym" and len(self.next.text) == 1 and self.next.text.isupper():
            point = self.take().text
            points.append(self.subscripted(s.Sym(point)).name if self.accept("_") else point)
        return s.Sym(" ".join((name, *min(points, points[::-1]))))

    def applied(self, name: str, plain, mark: str):
        """f(x), f'(x) or f^{-1}(x) where a bracket with a letter or number follows the name of a function."""
        simple = self.at("(") and self.peek(2).text in (")", ",") and self.peek(1).kind in ("sym", "num", "const", "word")
        if name not in _APPLIED or not simple:
            return plain
        inner = self.brackets()
        return s.Apply(name + mark, inner.items if isinstance(inner, s.Bracketed) else (inner,))

    def phrase(self):
        """Words where a value could stand: a name, a sentence, a label."""
        first = self.next.text
        if len(first) == 1 and self.peek(1).kind not in ("word", "num"):
            self.take()
            return s.Const(first) if first in "ei" else self.symbol(first)
        if CANONICAL.get(first.lower()) in ("dollar", "rupee", "euro") and self.peek(1).kind == "num":
            return s.Quantity((self.take(), self.factor())[1], CANONICAL[first.lower()])
        parts = []
        while self.next.kind in ("word", "num", "sym", "const") or (self.in_phrase(parts) and self.peek(1).kind == "word"):
            token = self.take()
            if token.text not in ("-", "and") and not (parts and parts[-1].isdigit() and token.text in _ENDINGS):
                parts.append(token.text.lower())
        if parts[-1] == "inf" and parts[:-1] in (["negative"], ["minus"], ["positive"], ["plus"]):
            return times(s.Num(Fraction(-1 if parts[0] in ("negative", "minus") else 1)), s.Const("inf"))
        value = spelled(parts)
        return s.Sym(_plain_phrase(parts), text=True) if value is None else s.Num(Fraction(value))

    def in_phrase(self, parts: list[str]) -> bool:
        """The stroke of `twenty-five`, the and of `three hundred and two`."""
        return self.at("-") or (self.next == Token("sep", "and") and parts[-1:] != [] and parts[-1] in SCALES)

    def command(self, name: str):
        if name == "frac":
            return s.Div(self.argument(True), self.argument(True))
        if name == "binom":
            return s.Func("binom", (self.argument(True), self.argument(True)))
        degree = s.Num(Fraction(2))
        if self.accept("["):
            degree = self.inside()
            self.expect("]")
        return s.Func("root", (self.argument(single_digit=False), degree))

    def function(self, name: str):
        base = power = None
        for _ in range(2):
            if self.accept("_"):
                base = self.argument(single_digit=False)
            elif self.accept("^"):
                power = self.argument(single_digit=False)
        if power == MINUS_ONE and name in _INVERSE:
            name, power = _INVERSE[name], None
        node = self.call(name, base, self.function_argument())
        return node if power is None else s.Pow(node, power)

    def call(self, name: str, base, argument):
        if name in ("max", "min", "gcd", "lcm"):
            return s.Func(name, argument.items if isinstance(argument, (s.Bracketed, s.Listing)) else (argument,))
        if name in ("log", "lg", "ln"):
            name, base = ("ln", base) if name == "ln" or base is not None else ("log", base)
            logarithm = s.Func(name, (argument,))
            return logarithm if base is None else s.Div(logarithm, s.Func("ln", (base,)))
        if name in (*_TRIGONOMETRIC, "cis") and any(isinstance(n, s.Func) and n.name == "degrees" for n in s.walk(argument)):
            argument = _radians(argument)
        if name == "cis":
            return s.Pow(s.Const("e"), s.Mul((s.Const("i"), argument)))
        return s.Pow(s.Const("e"), argument) if name == "exp" else s.Func(name, (argument,))

    def function_argument(self):
        """A bracketed group, or the factors that follow up to the next sign, function or bracket."""
        if self.at("(", "[", "{", "|", r"\{"):
            if self.at("{") or self.at("|"):
                return self.postfix(self.deeper(self.primary))
            return self.brackets() if self.at("(", "[") else self.set_braces()
        node = self.factor()
        while self.next.kind in ("sym", "const", "cmd"):
            node = times(node, self.factor())
        return node


def times(left, right):
    """left * right; the product of a quantity keeps its unit."""
    if isinstance(left, s.Quantity) or isinstance(right, s.Quantity):
        units = [n.unit for n in (left, right) if isinstance(n, s.Quantity)]
        plain = [n.value if isinstance(n, s.Quantity) else n for n in (left, right)]
        return s.Quantity(times(*plain), units[0] if len(units) == 1 else "")
    return s.Mul((*left.factors, right)) if isinstance(left, s.Mul) else s.Mul((left, right))


def _plain_phrase(parts: list[str]) -> str:
    """Without the article or the `there is` before it."""
    for lead in _ARTICLES:
        if parts[: len(lead)] == lead and len("".join(parts[len(lead) :])) > 1:
            return _plain_phrase(parts[len(lead) :])
    return " ".join(parts)


def _radians(node):
    if isinstance(node, s.Func) and node.name == "degrees":
        return s.Mul((node.args[0], s.Const("pi"), s.Num(Fraction(1, 180))))
    return s.rebuild(node, _radians)
