"""Sets of real numbers: intervals, unions, inequalities, exclusions, compared by membership.

Two sets are equal when they agree at every end point that either of them names and between all neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import inf

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide
from megatron_oreal.verify.rules.values.numeric import Numeric, close, context
from megatron_oreal.verify.rules.values.polynomials import real_roots
from megatron_oreal.verify.rules.values.prime_field import PrimeField
from megatron_oreal.verify.rules.values.rational import rational

_ORDER = frozenset("<>≤≥≠")
_ALL_REALS = frozenset(
    ("reals", "all real numbers", "all reals", "all real", "all real values", "real numbers", "the set of all real numbers")
)
_EMPTY = frozenset(("emptyset", "empty set", "the empty set", "no solution", "no solutions", "no real solution", "no real solutions"))
_WHOLE_FROM = {"integers": -inf, "naturals": 0, "naturals from 1": 1}
MAX_PARTS = 40
STEPS_OF_ROOTS = 2_000
"""What the roots of a polynomial take of the budget: up to ten of them in one comparison."""


@dataclass(frozen=True)
class Interval:
    low: object  # mpf, -inf and inf included
    low_closed: bool
    high: object
    high_closed: bool

    def has(self, x) -> bool:
        above = x > self.low or (self.low_closed and x == self.low)
        return above and (x < self.high or (self.high_closed and x == self.high))


@dataclass(frozen=True)
class Whole:
    """The integers, from a first one where they have one."""

    low: object  # mpf, or -inf

    def has(self, x) -> bool:
        return x >= self.low and x == context().nint(x)


@dataclass(frozen=True)
class Combined:
    op: str  # ∪ ∩ ∖
    parts: tuple

    def has(self, x) -> bool:
        if self.op == "∪":
            return any(part.has(x) for part in self.parts)
        if self.op == "∩":
            return all(part.has(x) for part in self.parts)
        return self.parts[0].has(x) and not any(part.has(x) for part in self.parts[1:])


def same_set(a, b, budget: Budget) -> bool:
    """Whether two trees name the same set of reals; raises CannotDecide where one of them names none."""
    first, second = _Reader(budget), _Reader(budget)
    one, other = first.read(a), second.read(b)
    if first.variable and second.variable and first.variable != second.variable:
        return False
    ends = [*first.ends, *second.ends]
    probes = [*_probes(ends), *(_beside(ends) if first.whole or second.whole else ())]
    return all(one.has(x) == other.has(x) for x in probes)


def _beside(ends: list):
    """The whole numbers next to every end, and what lies between them."""
    mp = context()
    near = [mp.nint(end) + gap for end in ends if mp.isfinite(end) for gap in (-2, -1, 0, 1, 2)] or [mp.mpf(0)]
    return [x + part for x in near for part in (0, mp.mpf(1) / 3)]


def _probes(ends: list):
    mp = context()
    finite = sorted({end for end in ends if mp.isfinite(end)})
    if not finite:
        return [mp.mpf(0)]
    middles = [(low + high) / 2 for low, high in zip(finite, finite[1:], strict=False)]
    return [finite[0] - 1, *finite, *middles, finite[-1] + 1]


def names_set(node) -> bool:
    """Whether a tree can only be read as a set of reals (a pair in round brackets may be a point as well)."""
    match node:
        case s.SetOp() | s.Condition():
            return True
        case s.Relation(ops, _):
            return set(ops) <= set("<>≤≥≠∈")
        case s.Sym(name):
            return name in _ALL_REALS or name in _EMPTY
        case s.Add((s.Sym("reals"), *_)):
            return True
        case s.Bracketed(left, (_, _), right):
            return (left, right) != ("(", ")")
    return False


class _Reader:
    """Reads a tree as a set, noting the end points and the variable that it is about."""

    def __init__(self, budget: Budget):
        self.budget, self.ends, self.variable, self.whole = budget, [], None, False

    def read(self, node):
        if len(self.ends) > MAX_PARTS:
            raise CannotDecide("a set of too many parts")
        match node:
            case s.Quantity(value, _):
                return self.read(value)
            case s.Sym(name) if name in _ALL_REALS:
                return self.interval(-context().inf, False, context().inf, False)
            case s.Sym(name) if name in _EMPTY:
                return Combined("∪", ())
            case s.Sym(name) if name in _WHOLE_FROM:
                self.whole = True
                return Whole(_WHOLE_FROM[name])
            case s.Bracketed(left, (low, high), right):
                return self.interval(self.end(low), left == "[", self.end(high), right == "]")
            case s.Relation() if any(isinstance(n, s.Sign) for n in s.walk(node)):
                return self.together((s.with_sign(node, 1), s.with_sign(node, -1)))
            case s.Listing(items, _) if any(isinstance(item, s.Relation) and set(item.ops) & _ORDER for item in items):
                return self.together(items)
            case s.Listing(items, _):
                return Combined("∪", tuple(self.point(item) for item in items))
            case s.SetOp(op, parts):
                return Combined(op, tuple(self.read(part) for part in parts))
            case s.Condition(variable, condition):
                return self.condition(variable, condition)
            case s.Relation(ops, sides):
                return self.relation(ops, sides)
            case s.Add((s.Sym("reals"), s.Mul((s.Num(minus), removed)))) if minus == -1:
                return Combined("∖", (self.read(s.Sym("reals")), self.read(removed)))
        raise CannotDecide("no set")

    def together(self, items: tuple):
        """x >= -2, x <= 7: both hold where both can, as in x > 0, x != 1; otherwise (x < 1, x > 2) one of them."""
        items = list(items)
        for k, (before, item) in enumerate(zip(items, items[1:], strict=False), start=1):
            if isinstance(before, s.Relation) and before.ops == ("≠",) and not isinstance(item, s.Relation):
                items[k] = s.Relation(("≠",), (before.sides[0], item))  # x != 1, 2
        parts = tuple(self.read(item) for item in items)
        both = Combined("∩", parts)
        return both if any(both.has(x) for x in _probes(self.ends)) else Combined("∪", parts)

    def condition(self, variable, condition):
        kind = s.Sym("reals")
        if isinstance(variable, s.Relation) and variable.ops == ("∈",):
            variable, kind = variable.sides
        items = condition.items if isinstance(condition, s.Listing) else (condition,)
        if not isinstance(variable, s.Sym):
            raise CannotDecide("no set over one variable")
        about, self.variable = self.variable, None
        self.about(variable)
        parts = tuple(self.read(item) for item in (kind, *items))
        self.variable = about  # { x : x > 2 } and { y : y > 2 } are the same
        return Combined("∩", parts)

    def relation(self, ops: tuple, sides: tuple):
        if ops == ("∈",):
            self.about(sides[0])
            return self.read(sides[1])
        if not set(ops) <= set("<>≤≥≠="):
            raise CannotDecide("no order")
        if sides[0] is None:
            return self.ray(s.MIRRORED[ops[0]], self.end(sides[1]))
        parts = [self.compared(left, op, right) for left, op, right in zip(sides, ops, sides[1:], strict=False)]
        return parts[0] if len(parts) == 1 else Combined("∩", tuple(parts))

    def compared(self, left, op: str, right):
        """left op right, where one side is the variable, or the two differ by a polynomial in it."""
        if isinstance(left, (s.Sym, s.Apply)) and not s.symbols(right):
            self.about(left)
            return self.ray(s.MIRRORED[op], self.end(right))
        if isinstance(right, (s.Sym, s.Apply)) and not s.symbols(left):
            self.about(right)
            return self.ray(op, self.end(left))
        if isinstance(right, s.Func) and right.name == "abs":
            left, op, right = right, s.MIRRORED[op], left
        if isinstance(left, s.Func) and left.name == "abs" and op in "<≤>≥":
            inner, minus = left.args[0], s.Mul((s.MINUS_ONE, left.args[0]))
            return Combined("∩" if op in "<≤" else "∪", (self.compared(inner, op, right), self.compared(minus, op, right)))
        match left:
            case s.Mul((s.Num(minus), s.Sym() | s.Apply() as name)) if minus == -1 and not s.symbols(right):
                return self.compared(name, s.MIRRORED[op], s.Mul((s.MINUS_ONE, right)))
        return self.polynomial(s.difference(left, right), op)

    def polynomial(self, difference, op: str):
        names = s.symbols(difference)
        if len(names) != 1:
            raise CannotDecide("no set over one variable")
        (name,) = names
        PrimeField(seed=1).evaluate(difference, self.budget)  # raises for |x| and the like, polynomials only in parts
        self.about(s.Sym(name))

        def value(x: Fraction) -> Fraction:
            return rational(difference, self.budget, {name: x})

        zero, one, far = (value(Fraction(x)) for x in (0, 1, 12_345))
        if far - zero != 12_345 * (one - zero) or one == zero:
            return self.between(real_roots(value), value, op)
        return self.ray(s.MIRRORED[op] if one > zero else op, self.noted(-zero / (one - zero)))

    def between(self, roots: list[Fraction], value: Callable[[Fraction], Fraction], op: str):
        """{ x : value(x) op 0 } by the sign of the value between its roots."""
        self.budget.spend(STEPS_OF_ROOTS)
        ends = [self.noted(root) for root in roots]
        if not roots:
            inside = [Fraction(0)]
        else:
            inside = [roots[0] - 1, *((low + high) / 2 for low, high in zip(roots, roots[1:], strict=False)), roots[-1] + 1]
        parts = [
            Interval(low, False, high, False)
            for low, x, high in zip([-inf, *ends], inside, [*ends, inf], strict=True)
            if (op in "<≤≠" and value(x) < 0) or (op in ">≥≠" and value(x) > 0)
        ]
        return Combined("∪", (*parts, *(Interval(end, True, end, True) for end in ends if op in "≤≥=")))

    def ray(self, op: str, bound):
        """{ x : bound op x }."""
        if op in ("<", "≤"):
            return Interval(bound, op == "≤", inf, False)
        if op in (">", "≥"):
            return Interval(-inf, False, bound, op == "≥")
        if op == "=":
            return Interval(bound, True, bound, True)
        return Combined("∪", (Interval(-inf, False, bound, False), Interval(bound, False, inf, False)))

    def interval(self, low, low_closed: bool, high, high_closed: bool):
        if (low_closed and not context().isfinite(low)) or (high_closed and not context().isfinite(high)):
            raise CannotDecide("closed at infinity")
        if low > high or (low == high and not (low_closed and high_closed)):
            raise CannotDecide("a pair that is no interval")  # (3, 1) is a point, not the empty set
        return Interval(low, low_closed, high, high_closed)

    def point(self, node):
        if isinstance(node, s.Relation) and node.ops == ("=",):
            self.about(node.sides[0])
            node = node.sides[1]
        end = self.end(node)
        return Interval(end, True, end, True)

    def about(self, variable) -> None:
        words = isinstance(variable, s.Sym) and variable.text and len(variable.name) > 1
        if words or not isinstance(variable, (s.Sym, s.Apply)) or (self.variable and self.variable != variable.name):
            raise CannotDecide("no set over one variable")
        self.variable = variable.name

    def end(self, node):
        """A constant end point; equal ones are made identical, so that plain comparisons suffice."""
        mp = context()
        infinite = infinity(node)
        if infinite:
            return infinite * mp.inf
        if s.symbols(node):
            raise CannotDecide("an end point that is no number")
        value = Numeric({}, self.budget, complex_plane=False)(node)
        if value.imag != 0:
            raise CannotDecide("an end point that is no number")
        return self.noted(value.real)

    def noted(self, value):
        """The end point as a number of 80 decimals, kept for the probes."""
        mp = context()
        value = mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else mp.mpf(value)
        rounded = mp.nint(value * mp.mpf(10) ** 80) / mp.mpf(10) ** 80 if mp.mag(value) < 60 else value
        self.ends.append(rounded if close(rounded, value, mp) else value)
        return self.ends[-1]


def infinity(node) -> int:
    """+1 or -1 where a tree is plus or minus infinity, else 0."""
    match node:
        case s.Const("inf"):
            return 1
        case s.Mul((s.Num(value), s.Const("inf"))):
            return 1 if value > 0 else -1
        case s.Func("degrees", (inner,)) | s.Quantity(inner, _):
            return infinity(inner)
    return 0
