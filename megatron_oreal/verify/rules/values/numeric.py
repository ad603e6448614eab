"""Numeric probing: both sides at the same points with 110 digits, every operation guarded in size.

Only for what exact.py cannot: roots, logarithms, trigonometry. mpmath's context is not thread-safe, so each
thread has its own.
"""

import threading
from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.vocabulary import words
from megatron_oreal.verify.rules.values.rational import Budget, CannotDecide, Inexact, Undefined, rational

DIGITS = 110
AGREE = 75
"""Digits in which two values must agree; the rest absorb cancellation."""
FINER_DIGITS = 200
"""A second look at values that may be zero: the noise of a cancellation shrinks with the digits, 1/2004! does not."""
MAX_ARGUMENT = 10**7
"""Of exp and of the trigonometric functions: mpmath's cost grows with the argument's exponent."""
LARGE = 20
MAX_WHOLE_DIGITS = 5_000
FUNCTION_STEPS = 20

_local = threading.local()


def context():
    """This thread's mpmath context."""
    if not hasattr(_local, "context"):
        from mpmath import MPContext

        _local.context = MPContext()
        _local.context.dps = DIGITS
    return _local.context


class Numeric:
    """Evaluates trees at one point. Real unless `complex_plane`: then a root of a negative number is defined."""

    def __init__(self, values: dict[str, object], budget: Budget, complex_plane: bool):
        self.values, self.budget, self.complex_plane, self.mp = values, budget, complex_plane, context()

    def __call__(self, node):
        self.budget.spend()
        match node:
            case s.Num(value):
                return self.fraction(value)
            case s.Sym(name):
                return self.values[name]
            case s.Const(name):
                return self.constant(name)
            case s.Add(terms):
                return self.bounded(sum((self(term) for term in terms), self.mp.mpf(0)))
            case s.Mul(factors):
                return self.product(factors)
            case s.Div(top, bottom):
                return self.bounded(self(top) / self.nonzero(self(bottom)))
            case s.Pow(base, exponent):
                return self.power(self(base), exponent)
            case s.Apply(name, (arg,)):
                return self.values[name] * self(arg)
            case s.Quantity(value, _) | s.Func("degrees", (value,)):
                return self(value)
            case s.Func(name, args):
                self.budget.spend(FUNCTION_STEPS)
                return self.function(name, args)
        raise CannotDecide(f"no value for {type(node).__name__}")

    def fraction(self, value: Fraction):
        return self.mp.mpf(value.numerator) / value.denominator

    def constant(self, name: str):
        if name == "pi":
            return +self.mp.pi
        if name == "e":
            return +self.mp.e
        if name == "i":
            return self.mp.mpc(0, 1)
        raise CannotDecide("infinity within an expression")

    def product(self, factors):
        value = self.mp.mpf(1)
        for factor in factors:
            value = self.bounded(value * self(factor))
        return value

    def bounded(self, value):
        """Magnitudes beyond 10^(3 million) are refused before they grow."""
        if value != 0 and abs(self.mp.mag(value)) > MAX_ARGUMENT:
            raise CannotDecide("beyond size")
        return value

    def nonzero(self, value):
        if self.mp.mag(value) < -300:  # noise of a cancellation at 110 digits, or zero itself
            raise Undefined("division by zero")
        return value

    def small(self, value):
        if self.mp.mag(value) > 24:
            raise CannotDecide("too large an argument")
        return value

    def real(self, value):
        if value.imag != 0:
            raise CannotDecide("a complex argument")
        return value.real

    def power(self, base, exponent):
        try:
            exact = rational(exponent, self.budget)
        except CannotDecide:
            exact = None
        if exact is not None and exact.denominator == 1:
            return self.whole_power(base, int(exact))
        if exact is not None and abs(exact.numerator) < 10**6 and exact.denominator < 10**3:
            return self.whole_power(self.root(base, exact.denominator), exact.numerator)
        if base == self.mp.e:
            return self.bounded(self.mp.exp(self.small(self(exponent))))
        return self.real_power(base, self(exponent))

    def real_power(self, base, exponent):
        if exponent == self.mp.nint(exponent.real) and abs(exponent) < 10**6:
            return self.whole_power(base, int(exponent.real))
        if base == 0 or (not self.complex_plane and base.real < 0):
            raise Undefined("a real power of a negative number")
        self.budget.spend(FUNCTION_STEPS)
        return self.bounded(self.mp.exp(self.small(exponent * self.mp.log(base))))

    def whole_power(self, base, exponent: int):
        if base == 0 and exponent <= 0:
            raise Undefined("a power of zero")
        if base != 0 and (abs(exponent) > 10**9 or abs(self.mp.mag(base) * exponent) > MAX_ARGUMENT):
            raise CannotDecide("beyond size")
        return base**exponent

    def root(self, value, degree: int):
        self.budget.spend(FUNCTION_STEPS)
        if value.imag == 0 and value.real < 0:
            if degree % 2:
                return -self.mp.root(-value.real, degree)
            if not self.complex_plane:
                raise Undefined("an even root of a negative number")
        return self.mp.root(value, degree)

    def function(self, name: str, args: tuple):
        if name == "root":
            degree = rational(args[1], self.budget)
            if degree.denominator != 1 or not 0 < degree <= 1000:
                raise CannotDecide("an unusual root")
            return self.root(self(args[0]), int(degree))
        values = [self(arg) for arg in args]
        if name in ("ln", "log"):
            return self.logarithm(values[0]) / (self.mp.ln(10) if name == "log" else 1)
        if name in _ELEMENTARY:
            return self.bounded(getattr(self.mp, _ELEMENTARY[name])(self.in_domain(name, self.small(values[0]))))
        if name in ("floor", "ceil", "max", "min", "abs"):
            return self.simple(name, values)
        if name == "factorial":
            return self.bounded(self.mp.factorial(self.at_least_zero(self.real(values[0]))))
        if name == "binom":
            top, bottom = (self.at_least_zero(self.real(value)) for value in values)
            return self.bounded(self.mp.binomial(top, bottom))
        raise CannotDecide(f"no value for {name}")

    def logarithm(self, value):
        if abs(value) == 0 or (not self.complex_plane and value.real < 0):
            raise Undefined("a logarithm outside its domain")
        return self.mp.ln(value)

    def in_domain(self, name: str, value):
        """A pole, or an arcsine of two: undefined over the reals."""
        if not self.complex_plane and name in ("arcsin", "asin", "arccos", "acos") and abs(value) > 1:
            raise Undefined("an inverse function outside its domain")
        pole = {"tan": "cos", "sec": "cos", "cot": "sin", "csc": "sin", "coth": "sinh", "csch": "sinh"}.get(name)
        if pole:
            self.nonzero(getattr(self.mp, pole)(value))
        return value

    def at_least_zero(self, value):
        if not 0 <= value < 10**4:
            raise Undefined("a factorial outside its domain")
        return value

    def simple(self, name: str, values: list):
        if name == "abs":
            return abs(values[0])
        reals = [self.real(value) for value in values]
        if name in ("max", "min"):
            return max(reals) if name == "max" else min(reals)
        nearest = self.mp.nint(reals[0])
        if abs(reals[0] - nearest) < self.mp.mpf(10) ** -AGREE:  # a whole number with noise
            return nearest
        return self.mp.floor(reals[0]) if name == "floor" else self.mp.ceil(reals[0])


_ELEMENTARY = {name: name for name in words("sin cos tan cot sec csc sinh cosh tanh coth sech csch")} | {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "asin": "asin", "acos": "acos", "atan": "atan", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
}  # fmt: skip

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


def close(a, b, mp) -> bool:
    """Agreement in AGREE digits; what is smaller than the noise is zero."""
    size = max(abs(a), abs(b))
    return size < mp.mpf(10) ** -AGREE or abs(a - b) <= size * mp.mpf(10) ** -AGREE


def agree(a, b, budget: Budget) -> bool:
    """Whether two trees have the same value at all probed points where both are defined; raises CannotDecide."""
    mp = context()
    names = sorted(s.symbols(a) | s.symbols(b))
    nodes = [node for tree in (a, b) for node in s.walk(tree)]
    if any(isinstance(node, s.Sym) and node.name == s.ELLIPSIS for node in nodes):
        raise CannotDecide("an ellipsis")
    complex_plane = not names or s.Const("i") in nodes
    one_has_abs = len({any(isinstance(n, s.Func) and n.name == "abs" for n in s.walk(tree)) for tree in (a, b)}) == 2
    probed = 0
    for values in points(names, mp):
        first, second = (_value(tree, values, budget, complex_plane) for tree in (a, b))
        if first is None or second is None:
            if one_has_abs and (first is None) != (second is None):
                return False  # ln x is not ln |x|
            continue
        if not close(first, second, mp) or _tiny_and_apart(a, b, first, second, values, budget, complex_plane):
            return False
        if not names and not _close_when_large(a, b, first, budget):
            return False
        probed += 1
    if probed < min(3, len(points(names, mp))):
        raise CannotDecide("defined at too few points")
    return True


def _tiny_and_apart(a, b, first, second, values: dict, budget: Budget, complex_plane: bool) -> bool:
    """Both are below the noise, and with more digits at least one proves not to be zero, and they differ."""
    mp = context()
    noise = mp.mpf(10) ** -AGREE
    if max(abs(first), abs(second)) >= noise or abs(first - second) <= noise * max(abs(first), abs(second)):
        return False
    with mp.workdps(FINER_DIGITS):
        finer = [_value(tree, values, budget, complex_plane) for tree in (a, b)]
        zero = [value is None or abs(value) <= noise * abs(coarse) for value, coarse in zip(finer, (first, second), strict=True)]
    return not all(zero)


def _close_when_large(a, b, first, budget: Budget) -> bool:
    """Whether two large constants that agree in their leading digits agree in all before the point, and AGREE after it."""
    mp = context()
    whole = int(mp.mag(first) * 0.302) if first else 0
    if whole < LARGE:
        return True
    if whole > MAX_WHOLE_DIGITS:
        raise CannotDecide("beyond size")
    with mp.workdps(whole + DIGITS):
        budget.spend(whole)
        one, other = (_value(tree, {}, budget, True) for tree in (a, b))
        return one is not None and other is not None and abs(one - other) < mp.mpf(10) ** -AGREE


def _value(tree, values: dict, budget: Budget, complex_plane: bool):
    try:
        return Numeric(values, budget, complex_plane)(tree)
    except Undefined:
        return None
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise CannotDecide(str(error)) from None


def same_scalar(a, b, budget: Budget) -> bool:
    """Equality of two expressions; raises CannotDecide.

    Exactly where both are rational numbers or rational functions, otherwise by probing.
    """
    if a == b:
        return True
    try:
        return rational(a, budget) == rational(b, budget)
    except Inexact:
        pass
    try:
        return _same_in_field(a, b, budget)
    except Inexact:
        pass
    return agree(a, b, budget)


def _same_in_field(a, b, budget: Budget) -> bool:
    from megatron_oreal.verify.rules.values.rational import PrimeField

    field = PrimeField(seed=1)
    return field.evaluate(a, budget) == field.evaluate(b, budget)
