"""Real roots of a polynomial of small degree, isolated exactly by sympy; no text is given to sympy, only fractions."""

from collections.abc import Callable
from fractions import Fraction

from megatron_oreal.verify.rules.values.budget import CannotDecide

MAX_DEGREE = 6
MAX_BITS = 128
"""Of a value at a small whole number: isolation takes time with the length of the coefficients."""
FAR = 12_345
WIDTH = Fraction(1, 10**90)
"""An irrational root is known to this width."""


def real_roots(value: Callable[[Fraction], Fraction]) -> list[Fraction]:
    """Roots, in order, of a function that is a polynomial; irrational ones to WIDTH. Raises CannotDecide where it is none."""
    from sympy import Poly, Rational, Symbol

    coefficients = _coefficients([value(Fraction(x)) for x in range(MAX_DEGREE + 2)])
    if sum(coefficient * FAR**power for power, coefficient in enumerate(coefficients)) != value(Fraction(FAR)):
        raise CannotDecide("no polynomial of small degree")
    if not any(coefficients[1:]):
        return []
    polynomial = Poly.from_list([Rational(c.numerator, c.denominator) for c in reversed(coefficients)], Symbol("x"))
    intervals = polynomial.intervals(eps=Rational(WIDTH.numerator, WIDTH.denominator))
    return [_fraction(low) / 2 + _fraction(high) / 2 for (low, high), _ in intervals]


def _coefficients(values: list[Fraction]) -> list[Fraction]:
    """Of the polynomial with these values at 0, 1, 2, ...: Newton's forward differences."""
    if any(max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS for value in values):
        raise CannotDecide("too long coefficients")
    coefficients, basis, row = [Fraction(0)] * len(values), [Fraction(1)], values
    for step in range(len(values)):
        for power, coefficient in enumerate(basis):
            coefficients[power] += row[0] * coefficient
        row = [later - earlier for earlier, later in zip(row, row[1:], strict=False)]
        shifted = [Fraction(0), *basis]
        basis = [(shifted[k] - step * (basis[k] if k < len(basis) else 0)) / (step + 1) for k in range(len(shifted))]
    return coefficients


def _fraction(rational) -> Fraction:
    return Fraction(int(rational.p), int(rational.q))
