"""The operands of a sum or product: numbers, letters, brackets, functions and words, with what is written after them."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.functions import Functions
from megatron_oreal.verify.rules.reading.lexer import CannotRead, Token
from megatron_oreal.verify.rules.reading.numerals import SCALES, number, spelled
from megatron_oreal.verify.rules.reading.stream import END
from megatron_oreal.verify.rules.reading.units import CANONICAL
from megatron_oreal.verify.rules.reading.vocabulary import words

_FIGURES = words("\\angle \\triangle")
_APPLIED = frozenset("fghpqFGHPQRST")
_ENDINGS = words("st nd rd th")
_ORDINALS = frozenset(s.Sym(ending, text=True) for ending in _ENDINGS)
_ARTICLES = (["there", "is"], ["there", "are"], ["it", "is"], ["a"], ["an"], ["the"])


class Operands(Functions):
    """Reads one operand. What stands in brackets is read by `listing` and `sum` of the parser that derives from this."""

    def factor(self):
        if self.accept("-"):
            return s.times(s.MINUS_ONE, self.deeper(self.factor))
        if self.accept("+"):
            return self.deeper(self.factor)
        if self.next.kind == "cur":
            unit = self.take().text
            return s.Quantity(self.deeper(self.factor), unit)
        return self.postfix(self.deeper(self.primary))

    def postfix(self, node):
        while self.next.kind == "op" and (suffixed := self.suffix(node)):
            self.take()
            node = suffixed(node)
        return node

    def suffix(self, node):
        """What reads on behind the sign that follows an operand; None where the sign is none of its own."""
        sign = self.next.text
        if sign in ("'", '"') and isinstance(node, (s.Num, s.Div)):
            return self.inches
        if sign == "'":
            return self.primed if isinstance(node, s.Sym) else None
        return {"^": self.power, "!": self.factorial, "°": self.degrees, "%": _percent, "_": self.subscripted}.get(sign)

    def factorial(self, node):
        node = s.Func("double factorial" if self.accept("!") else "factorial", (node,))
        if self.at("!"):
            raise CannotRead("a factorial of many signs")
        return node

    def primed(self, node):
        return self.applied(node.name, s.Sym(node.name + "'"), "'")

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
        """12" and 12'', after a number; a single stroke is taken for feet."""
        strokes = self.tokens[self.position - 1].text
        strokes += self.take().text if strokes == "'" and self.at("'") else ""
        return s.Quantity(node, "ft" if strokes == "'" else "in")

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
        if isinstance(base, s.Sym) and exponent == s.MINUS_ONE:
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
            return s.times(s.MINUS_ONE, self.argument(single_digit))
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
        if kind == "name":
            return s.Sym(text[1:], text=True) if text.startswith('"') else s.Sym(text)
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
            return self.absolute()
        if text in ("⌊", "⌈"):
            return self.rounded()
        if text in ("∑", "∏"):
            return self.series(self.take().text)
        if text == "∫":
            return self.integral()
        raise CannotRead(f"{text!r} is out of place")

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
            return s.times(s.Num(Fraction(-1 if parts[0] in ("negative", "minus") else 1)), s.Const("inf"))
        value = spelled(parts)
        return s.Sym(_plain_phrase(parts), text=True) if value is None else s.Num(Fraction(value))

    def in_phrase(self, parts: list[str]) -> bool:
        """The stroke of `twenty-five`, the and of `three hundred and two`."""
        return self.at("-") or (self.next == Token("sep", "and") and parts[-1:] != [] and parts[-1] in SCALES)


def _percent(node):
    return s.Quantity(node, "percent")


def _plain_phrase(parts: list[str]) -> str:
    """Without the article or the `there is` before it."""
    for lead in _ARTICLES:
        if parts[: len(lead)] == lead and len("".join(parts[len(lead) :])) > 1:
            return _plain_phrase(parts[len(lead) :])
    return " ".join(parts)
