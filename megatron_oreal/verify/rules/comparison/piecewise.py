"""Functions given piece by piece: the same where they agree on every piece of either."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.assignments import is_name
from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide
from megatron_oreal.verify.rules.values.rational import rational

_ORDER = {
    "=": lambda a, b: a == b, "≠": lambda a, b: a != b, "<": lambda a, b: a < b, ">": lambda a, b: a > b,
    "≤": lambda a, b: a <= b, "≥": lambda a, b: a >= b,
}  # fmt: skip
_OTHERWISE = frozenset(("otherwise", "else", "elsewhere", "in all other cases"))
MAX_PIECES = 12
NEAR = Fraction(1, 97)


def pieces(node) -> tuple | None:
    """Pairs of value and condition of cases, the value of `f(x) = cases` too; None where the tree is none of them."""
    if isinstance(node, s.Relation) and node.ops == ("=",) and is_name(node.sides[0]) and pieces(node.sides[1]) is not None:
        node = node.sides[1]
    if not isinstance(node, s.Listing) or not node.braced or not 1 < len(node.items) <= MAX_PIECES:
        return None
    pairs = [item.items for item in node.items if isinstance(item, s.Bracketed) and len(item.items) == 2]
    if len(pairs) != len(node.items) or not all(_is_condition(condition) for _, condition in pairs):
        return None
    return tuple(pairs)


def _is_condition(node) -> bool:
    return (isinstance(node, s.Relation) and None not in node.sides) or (isinstance(node, s.Sym) and node.name in _OTHERWISE)


class Piecewise:
    """A function by its pieces, evaluated at fractions."""

    def __init__(self, pairs: tuple, budget: Budget):
        self.pairs, self.budget = pairs, budget
        names = {name for _, condition in pairs if isinstance(condition, s.Relation) for name in s.symbols(condition)}
        if len(names) != 1:
            raise CannotDecide("pieces over more than one variable")
        (self.name,) = names

    def places(self) -> set[Fraction]:
        """The ends of its pieces."""
        sides = [side for _, condition in self.pairs if isinstance(condition, s.Relation) for side in condition.sides]
        return {rational(side, self.budget) for side in sides if not s.symbols(side)}

    def piece(self, x: Fraction):
        """The value whose condition holds at x; None where none does."""
        for value, condition in self.pairs:
            if isinstance(condition, s.Sym) or self.holds(condition, x):
                return value
        return None

    def holds(self, condition: s.Relation, x: Fraction) -> bool:
        if not set(condition.ops) <= set(_ORDER):
            raise CannotDecide("a condition that is no order")
        sides = [rational(side, self.budget, {self.name: x}) for side in condition.sides]
        return all(_ORDER[op](a, b) for op, a, b in zip(condition.ops, sides, sides[1:], strict=False))


def pairs_to_compare(gold: tuple, answer, budget: Budget) -> list[tuple] | None:
    """Values of both at places on every piece; `answer` is pieces, or one expression. None: one has a value where the other has none.

    Where a piece holds at single whole numbers (n = 1), whole numbers are the places.
    """
    first = Piecewise(gold, budget)
    second = Piecewise(answer, budget) if isinstance(answer, tuple) else None
    if second and second.name != first.name:
        return None
    ends = sorted(first.places() | (second.places() if second else set()))
    places = [place for end in ends for place in (end - NEAR, end, end + NEAR)] + [ends[0] - 3, ends[-1] + 3]
    places += [(low + high) / 2 for low, high in zip(ends, ends[1:], strict=False)]
    whole = _over_whole_numbers(gold) and (second is None or _over_whole_numbers(answer))
    if whole:
        places = [Fraction(n) for n in range(int(ends[0]) - 1, int(ends[-1]) + 4)][:40]
    pairs = []
    for x in places:
        one, other = first.piece(x), second.piece(x) if second else answer
        if one is None and second is None and whole:
            continue  # a sequence begins where its pieces do
        if (one is None) != (other is None):
            return None
        if one is not None:
            pairs.append(tuple(s.replaced(value, s.Sym(first.name), s.Num(x)) for value in (one, other)))
    return pairs or None


def _over_whole_numbers(pairs: tuple) -> bool:
    return any(isinstance(condition, s.Relation) and condition.ops == ("=",) for _, condition in pairs)
