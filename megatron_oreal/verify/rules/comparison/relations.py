"""Relations: values that are given a name, equations, congruences."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.assignments import (
    function_and_value,
    in_its_variable,
    is_combination,
    is_name,
    is_plain_combination,
    turned,
)
from megatron_oreal.verify.rules.comparison.equations import same_equation
from megatron_oreal.verify.rules.comparison.parts import PartByPart
from megatron_oreal.verify.rules.values.numeric import Numeric

_EQUALS = ("=", "≈")


class Relations(PartByPart):
    """Compares relations; their sides are compared by the Comparison that derives from this."""

    def same_relation(self, gold, answer) -> bool:
        if not isinstance(answer, s.Relation):
            value = self.assigned_value(gold, strict=True)
            return value is not None and self.same(value, answer)
        answer = _identity_as_equation(answer)
        if not isinstance(gold, s.Relation):
            value = self.assigned_value(answer, strict=False)
            if value is not None and self.same(gold, value):
                return True
            return self.same_rounded(gold, answer) or any(self.same(gold, form) for form in self.with_percent(answer))
        gold = _identity_as_equation(gold)
        if len(gold.ops) == len(answer.ops) == 1 and gold.ops[0] in _EQUALS and answer.ops[0] in _EQUALS:
            return self.same_equality(gold, answer)
        if gold.ops == answer.ops == ("≡",):
            return self.same_congruence(gold, answer)
        if gold.ops == answer.ops and None not in (*gold.sides, *answer.sides):
            return self.pairwise(gold.sides, answer.sides)
        last, other = self.assigned_value(gold, strict=False), self.assigned_value(answer, strict=False)
        return last is not None and other is not None and gold.sides[0] == answer.sides[0] and self.same(last, other)

    def same_equality(self, gold: s.Relation, answer: s.Relation) -> bool:
        if None in (*gold.sides, *answer.sides):
            return self.same(gold.sides[1], answer.sides[1])
        if not s.symbols(gold) and not s.symbols(answer):  # 5 + 6 = 11: two such are equations of nothing
            return self.same(*answer.sides) and self.same(gold.sides[1], answer.sides[1])
        ours, theirs = turned(gold), turned(answer)
        theirs = in_its_variable(theirs, ours)
        if is_name(ours.sides[0]) and is_name(theirs.sides[0]):
            names = ours.sides[0], theirs.sides[0]
            if names[0] == names[1] or function_and_value(*names) or _one_in_words(*names):
                return self.same(ours.sides[1], theirs.sides[1])
        return same_equation(ours, theirs, self.budget)

    def same_congruence(self, gold: s.Relation, answer: s.Relation) -> bool:
        """x = r modulo m: the same x and m, and r up to multiples of m."""
        match gold.sides, answer.sides:
            case (of, s.Func("mod", (rest, modulus))), (other, s.Func("mod", (other_rest, other_modulus))):
                gap = s.Func("mod", (s.difference(rest, other_rest), modulus))
                return self.same(of, other) and self.same(modulus, other_modulus) and self.same(s.Num(Fraction(0)), gap)
        return self.pairwise(gold.sides, answer.sides)

    def assigned_value(self, relation: s.Relation, strict: bool):
        """The value that `x = 5`, `f(x) = 5` or `2 + 3 = 5` states; None where it states none (7 = 5, x > 5, 2x = 5).

        A gold equation (`strict`) gives its value only where it names it: y = 3 does, x - y = 3 is an equation.
        """
        if not set(relation.ops) <= set(_EQUALS):
            return None
        *before, value = relation.sides
        if relation.ops[-1] == "≈" and len(before) > 1:  # = sqrt(2) ≈ 1.41: the exact one counts
            *before, value = before
        elif relation.ops == ("≈",) and before[0] is not None and not s.symbols(before[0]):
            return before[0]
        chained = len(before) > 1 and before[0] is not None and is_name(before[0])  # S = 2ab = 24
        for side in before:
            stated = (
                side is None
                or is_name(side)
                or (chained and s.symbols(side))
                or (not strict and (is_plain_combination(side) or is_combination(side)))
                or self.equal_numbers(side, value)
            )
            if not stated:
                turned = is_name(value) and len(before) == 1
                return side if turned else None
        return value

    def same_rounded(self, gold, answer: s.Relation) -> bool:
        """70/9 ≈ 7.78 against a gold answer that is rounded itself."""
        if answer.ops[-1] != "≈" or answer.sides[-2] is None or s.symbols(answer):
            return False
        return self.nearly(*answer.sides[-2:]) and self.same(gold, answer.sides[-1])

    def with_percent(self, relation: s.Relation) -> tuple:
        """5/8 = 0.625 = 62.5 %: the number and the percentage, either of which may be meant; nothing where they are not the same."""
        *before, number, share = relation.sides
        if not isinstance(share, s.Quantity) or share.unit != "percent" or number is None or s.symbols(number) or s.symbols(share):
            return ()
        hundredth = s.Div(share.value, s.Num(Fraction(100)))
        near = relation.ops[-1] == "≈" and self.nearly(number, hundredth)
        same = near or (not isinstance(number, s.Quantity) and self.same(number, hundredth))
        named = all(side is None or is_name(side) or self.same(side, number) for side in before)
        return (number, share) if same and named else ()

    def nearly(self, exact, rounded) -> bool:
        exact, rounded = (Numeric({}, self.budget, complex_plane=False)(side) for side in (exact, rounded))
        return abs(exact - rounded) < abs(rounded) / 100

    def equal_numbers(self, side, value) -> bool:
        if s.symbols(side) or s.symbols(value):
            return False
        return self.same(side, value)


def _identity_as_equation(relation: s.Relation) -> s.Relation:
    """f(x) \\equiv 0 as f(x) = 0."""
    function = isinstance(relation.sides[0], s.Apply) or relation.sides[0] in (s.Sym("f"), s.Sym("g"))
    modular = any(isinstance(node, s.Func) and node.name == "mod" for node in s.walk(relation))
    return s.Relation(("=",), relation.sides) if relation.ops == ("≡",) and function and not modular else relation


def _one_in_words(one, other) -> bool:
    """Area = 5 against S = 5: words may name what a letter names."""
    return isinstance(one, s.Sym) and isinstance(other, s.Sym) and one.text != other.text
