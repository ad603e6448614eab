"""Two trees at the same points: whether they agree wherever both have a value."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide, Undefined
from megatron_oreal.verify.rules.values.numeric import AGREE, DIGITS, Numeric, close, context

FINER_DIGITS = 200
"""A second look at values that may be zero: the noise of a cancellation shrinks with the digits, 1/2004! does not."""
LARGE = 20
MAX_WHOLE_DIGITS = 5_000

_POINTS = (
    (3, 1),
    (5, 1),
    (2, 1),
    (37, 100),
    (271, 89),
    (911, 123),
    (1234, 91),
    (119, 83),
    (-61, 97),
    (-257, 101),
    (-619, 113),
    (10007, 10),
    (-9973, 7),
)
"""Where symbols are put: whole numbers, positive and negative fractions, and two far away."""


def points(names: list[str], mp) -> list[dict]:
    """Values of the symbols, one dictionary a point; each symbol starts elsewhere in the list."""
    count = len(_POINTS)
    if not names:
        return [{}]
    return [
        {
            name: mp.mpf(_POINTS[(row + 4 * column) % count][0] + 7 * (column // count)) / _POINTS[(row + 4 * column) % count][1]
            for column, name in enumerate(names)
        }
        for row in range(count)
    ]


def agree(a, b, budget: Budget) -> bool:
    """Whether two trees have the same value at all probed points where both are defined; raises CannotDecide."""
    return _Pair(a, b, budget).agree()


class _Pair:
    """Two trees, and what they have in common for all points."""

    def __init__(self, a, b, budget: Budget):
        self.trees, self.budget, self.mp = (a, b), budget, context()
        self.names = sorted(s.symbols(a) | s.symbols(b))
        nodes = [node for tree in self.trees for node in s.walk(tree)]
        if any(isinstance(node, s.Sym) and node.name == s.ELLIPSIS for node in nodes):
            raise CannotDecide("an ellipsis")
        self.complex_plane = not self.names or s.Const("i") in nodes
        self.one_has_abs = len({any(isinstance(n, s.Func) and n.name == "abs" for n in s.walk(tree)) for tree in self.trees}) == 2

    def agree(self) -> bool:
        places, probed = points(self.names, self.mp), 0
        for place in places:
            first, second = self.values(place)
            if first is None or second is None:
                if self.one_has_abs and (first is None) != (second is None):
                    return False  # ln x is not ln |x|
                continue
            if not self.agree_at(place, first, second):
                return False
            probed += 1
        if probed < min(3, len(places)):
            raise CannotDecide("defined at too few points")
        return True

    def agree_at(self, place: dict, first, second) -> bool:
        if not close(first, second, self.mp) or self.tiny_and_apart(place, first, second):
            return False
        return bool(self.names) or self.close_when_large(first)

    def values(self, place: dict) -> tuple:
        """Of both trees; None where one is undefined."""
        return tuple(self.value(tree, place) for tree in self.trees)

    def value(self, tree, place: dict):
        try:
            return Numeric(place, self.budget, self.complex_plane)(tree)
        except Undefined:
            return None
        except (ZeroDivisionError, OverflowError, ValueError) as error:
            raise CannotDecide(str(error)) from None

    def tiny_and_apart(self, place: dict, first, second) -> bool:
        """Both are below the noise, and with more digits at least one proves not to be zero, and they differ."""
        noise = self.mp.mpf(10) ** -AGREE
        if max(abs(first), abs(second)) >= noise or abs(first - second) <= noise * max(abs(first), abs(second)):
            return False
        with self.mp.workdps(FINER_DIGITS):
            finer = self.values(place)
            zero = [value is None or abs(value) <= noise * abs(coarse) for value, coarse in zip(finer, (first, second), strict=True)]
        return not all(zero)

    def close_when_large(self, first) -> bool:
        """Whether two large constants that agree in their leading digits agree in all before the point, and AGREE after it."""
        whole = int(self.mp.mag(first) * 0.302) if first else 0
        if whole < LARGE:
            return True
        if whole > MAX_WHOLE_DIGITS:
            raise CannotDecide("beyond size")
        with self.mp.workdps(whole + DIGITS):
            self.budget.spend(whole)
            one, other = self.values({})
            return one is not None and other is not None and abs(one - other) < self.mp.mpf(10) ** -AGREE
