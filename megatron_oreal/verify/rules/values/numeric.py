"""The value of a tree at a point, with 110 digits, every operation guarded in size.

Only for what no fraction and no prime field holds: roots, logarithms, trigonometry. mpmath's context is not thread-safe, so each
thread has its own.
"""

import threading
from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide, Undefined
from megatron_oreal.verify.rules.values.rational import rational

DIGITS = 110
AGREE = 75
"""Digits in which two values must agree; the rest absorb cancellation."""
MAX_ARGUMENT = 10**7
"""Of exp and of the trigonometric functions: mpmath's cost grows with the argument's exponent."""
FUNCTION_STEPS = 20

_local = threading.local()


def context():
    """This thread's mpmath context."""
    if not hasattr(_local, "context"):
        from mpmath import MPContext

        _local.context = MPContext()
        _local.context.dps = DIGITS
    return _local.context


def close(a, b, mp) -> bool:
    """Agreement in AGREE digits; what is smaller than the noise is zero."""
    size = max(abs(a), abs(b))
    return size < mp.mpf(10) ** -AGREE or abs(a - b) <= size * mp.mpf(10) ** -AGREE


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
            return self.written_root(*args)
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

    def written_root(self, base, degree):
        degree = rational(degree, self.budget)
        if degree.denominator != 1 or not 0 < degree <= 1000:
            raise CannotDecide("an unusual root")
        return self.root(self(base), int(degree))

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


_ELEMENTARY = {name: name for name in ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch"]} | {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec", "arccsc": "acsc",
    "asin": "asin", "acos": "acos", "atan": "atan", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
}  # fmt: skip
