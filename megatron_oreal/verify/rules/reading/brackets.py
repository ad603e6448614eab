"""What stands in brackets of every kind: groups, tuples, sets, absolute values."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.lexer import CannotRead
from megatron_oreal.verify.rules.reading.stream import TokenStream


class Brackets(TokenStream):
    """Reads what is enclosed; the `listing` or `sum` inside is read by the parser that derives from this."""

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

    def absolute(self):
        """|x|; a bar inside is the closing one."""
        self.take()
        self.bars += 1
        inner = self.sum()
        self.expect("|")
        self.bars -= 1
        return s.Func("abs", (inner,))

    def rounded(self):
        """⌊x⌋ and ⌈x⌉."""
        down = self.take().text == "⌊"
        inner = self.sum()
        self.expect("⌋" if down else "⌉")
        return s.Func("floor" if down else "ceil", (inner,))
