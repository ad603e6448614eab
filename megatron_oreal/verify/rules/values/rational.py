"""Rational numbers, exactly: the value of a tree as a fraction. No floats anywhere."""

import math
from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, Inexact, Undefined
from megatron_oreal.verify.rules.values.factorials import factorial_quotient

MAX_BITS = 16_384
"""Of a numerator or denominator. 3^2019 has 3,201; beyond this only the prime field is asked."""
MAX_FACTORIAL = 2_000


def rational(node, budget: Budget, env: dict | None = None) -> Fraction:
    """Value of a tree as a rational number; raises Inexact or Undefined. `env`: symbol name -> Fraction."""
    budget.spend()
    match node:
        case s.Num(value):
            return value
        case s.Sym(name) if env and name in env:
            return env[name]
        case s.Add(terms):
            return _checked(sum((rational(term, budget, env) for term in terms), Fraction(0)), budget)
        case s.Mul(factors):
            return _product(factors, budget, env)
        case s.Div(top, bottom):
            quotient = factorial_quotient(top, bottom, lambda part: rational(part, budget, env))
            if quotient is not None:
                return _checked(quotient, budget)
            return _checked(_divide(rational(top, budget, env), rational(bottom, budget, env)), budget)
        case s.Pow(base, exponent):
            return _power(rational(base, budget, env), rational(exponent, budget, env), budget)
        case s.Func(name, args) if name in _RATIONAL:
            return _checked(_RATIONAL[name](*(rational(arg, budget, env) for arg in args)), budget)
        case s.Quantity(value, _):
            return rational(value, budget, env)
        case s.Based():
            return Fraction(based_value(node))
    raise Inexact("no rational number")


def _product(factors: tuple, budget: Budget, env: dict | None) -> Fraction:
    product = Fraction(1)
    for factor in factors:
        product = _checked(product * rational(factor, budget, env), budget)
    return product


def based_value(node: s.Based) -> int:
    """Value of digits in their base; raises Undefined where a digit is too large for it."""
    try:
        return int(node.digits, node.base) * (-1 if node.negative else 1)
    except ValueError:
        raise Undefined("a digit beyond the base") from None


def _checked(value: Fraction, budget: Budget) -> Fraction:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if bits > MAX_BITS:
        raise Inexact("too long a number")
    budget.spend(bits // 256)
    return value


def _divide(top: Fraction, bottom: Fraction) -> Fraction:
    if bottom == 0:
        raise Undefined("division by zero")
    return top / bottom


def _power(base: Fraction, exponent: Fraction, budget: Budget) -> Fraction:
    if exponent.denominator != 1:
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator), budget)
    if base == 0 and exponent <= 0:
        raise Undefined("a power of zero")
    if abs(base) == 1 or base == 0:
        return base ** int(exponent % 2) if base == -1 else base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * bits > MAX_BITS:
        raise Inexact("too long a power")
    return _checked(base ** int(exponent), budget)


def _root(value: Fraction, degree: Fraction) -> Fraction:
    if degree.denominator != 1 or not 0 < degree <= 100:
        raise Inexact("an unusual root")
    if value < 0:
        if degree % 2 == 0:
            raise Inexact("an even root of a negative number")
        return -_root(-value, degree)
    return Fraction(_whole_root(value.numerator, int(degree)), _whole_root(value.denominator, int(degree)))


def _whole_root(value: int, degree: int) -> int:
    """The exact root of a whole number, by Newton's method; raises Inexact where there is none."""
    if value < 2 or degree == 1:
        return value
    if degree == 2:
        root = math.isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // degree)
        while (better := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
            root = better
    if root**degree != value:
        raise Inexact("an irrational root")
    return root


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise Inexact("a factorial beyond reckoning")
    return Fraction(math.factorial(int(value)))


def _double_factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise Inexact("a factorial beyond reckoning")
    return Fraction(math.prod(range(int(value), 0, -2)))


def _binomial(top: Fraction, bottom: Fraction) -> Fraction:
    if top.denominator != 1 or bottom.denominator != 1 or top < 0:
        raise Inexact("an unusual binomial")
    if not 0 <= bottom <= top:
        return Fraction(0)
    if top > 10**6 or min(bottom, top - bottom) > MAX_FACTORIAL:
        raise Inexact("a binomial beyond reckoning")
    return Fraction(math.comb(int(top), int(bottom)))


def _modulo(value: Fraction, modulus: Fraction) -> Fraction:
    if modulus == 0:
        raise Undefined("modulo zero")
    return value % modulus


def _whole(function):
    def apply(*values: Fraction) -> Fraction:
        if any(value.denominator != 1 for value in values):
            raise Inexact("no whole numbers")
        return Fraction(function(*map(int, values)))

    return apply


def _of_many(function):
    def apply(*values: Fraction) -> Fraction:
        return function(values)

    return apply


_RATIONAL = {
    "abs": abs, "root": _root, "factorial": _factorial, "double factorial": _double_factorial,
    "binom": _binomial, "mod": _modulo, "degrees": lambda x: x,
    "floor": lambda x: Fraction(math.floor(x)), "ceil": lambda x: Fraction(math.ceil(x)),
    "max": _of_many(max), "min": _of_many(min), "gcd": _whole(math.gcd), "lcm": _whole(math.lcm),
}  # fmt: skip
