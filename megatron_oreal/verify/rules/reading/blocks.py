"""What has parts of its own: sums, products and integrals with bounds, matrices, systems and cases."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.brackets import Brackets
from megatron_oreal.verify.rules.reading.lexer import CannotRead
from megatron_oreal.verify.rules.reading.vocabulary import words

_MATRICES = words("matrix pmatrix bmatrix Bmatrix smallmatrix array")
_CASES = words("cases dcases rcases aligned align gathered split alignedat eqnarray")
_CONDITIONALS = words("if when for where else and")
MAX_UNROLLED = 1_000
"""Nodes that a sum or product over numbers may be written out to."""


class Blocks(Brackets):
    """Reads one block; its parts are read by the parser that derives from this."""

    def scripts(self) -> tuple:
        """_{low}^{high}, in either order; None where one is not there."""
        low = high = None
        for _ in range(2):
            if self.accept("_"):
                low = self.argument(single_digit=False)
            elif self.accept("^"):
                high = self.argument(single_digit=False)
        return low, high

    def series(self, sign: str):
        """\\sum_{k=1}^{10} of a product; written out where the bounds are numbers and the terms few."""
        low, high = self.scripts()
        body = self.deeper(self.term)
        match low, high:
            case s.Relation(("=",), (s.Sym() | s.Const("i"), s.Num(first))), s.Num(last) if first.denominator == last.denominator == 1:
                terms = max(0, int(last - first) + 1)
                if terms * sum(1 for _ in s.walk(body)) <= MAX_UNROLLED:
                    values = [s.replaced(body, low.sides[0], s.Num(first + k)) for k in range(terms)]
                    return (s.Add if sign == "∑" else s.Mul)((s.Num(Fraction(sign == "∏")), *values))
        return s.Func(sign, tuple(part for part in (low, high, body) if part is not None))

    def integral(self):
        """\\int_{low}^{high} f dx, the differential at the end of a term; it is compared, not worked out."""
        self.take()
        low, high = self.scripts()
        terms = [self.signed_term(first=True)]
        while not _ends_with_differential(terms[-1]):
            if not self.at("+", "-"):
                raise CannotRead("an integral without a differential at its end")
            terms.append(self.signed_term(first=False))
        *factors, _, variable = terms[-1].factors
        body = s.Add((*terms[:-1], s.Mul((s.Num(Fraction(1)), *factors))))
        return s.Func("∫", tuple(part for part in (low, high, body, variable) if part is not None))

    def environment(self, name: str):
        if name in _CASES:
            return self.cases()
        if name not in _MATRICES and name != "vmatrix":
            raise CannotRead(f"the environment {name!r}")
        rows, row = [], []
        while self.next.kind != "end":
            if self.accept("row"):
                rows, row = ([*rows, tuple(row)] if row else rows), []
            elif not self.accept("&"):
                row.append(self.inside())
        self.take()
        rows = [*rows, tuple(row)] if row else rows
        if rows and all(len(row) == 1 and isinstance(row[0], s.Relation) for row in rows):
            return s.Listing(tuple(row[0] for row in rows), braced=False)
        if name == "array" and len(rows) == len(rows[0]) == 1:
            return rows[0][0]
        if not rows or len({len(row) for row in rows}) != 1:
            raise CannotRead("rows of different lengths")
        return s.Func("det", (s.Matrix(tuple(rows)),)) if name == "vmatrix" else s.Matrix(tuple(rows))

    def cases(self):
        """Rows of one relation each are a system, a list; rows of a value and its condition a set of pairs."""
        rows, row = [], []
        while self.next.kind != "end":
            if self.accept("row"):
                rows, row = [*rows, row], []
            elif self.next.text.lower() in _CONDITIONALS:
                self.take()
            elif not self.accept("&", ",", ";", "."):
                row.append(self.deeper(self.item))
        self.take()
        rows = [row for row in (*rows, row) if row]
        if not rows:
            raise CannotRead("no cases")
        if all(len(row) == 1 for row in rows):
            return s.Listing(tuple(row[0] for row in rows), braced=False)
        return s.Listing(tuple(s.Bracketed("(", tuple(row), ")") if len(row) > 1 else row[0] for row in rows), braced=True)


def _ends_with_differential(node) -> bool:
    return isinstance(node, s.Mul) and len(node.factors) > 1 and node.factors[-2] == s.Sym("d") and isinstance(node.factors[-1], s.Sym)
