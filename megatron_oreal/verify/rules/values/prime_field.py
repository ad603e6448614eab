"""Rational functions over a random prime field.

Two of them that agree at a random point of a field of some 2^120 elements are the same but for a chance of
degree / 2^120 (Schwartz-Zippel); the prime is drawn at random, so no answer can be built around it.
"""

import random
from fractions import Fraction
from functools import cache

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, Inexact, Undefined
from megatron_oreal.verify.rules.values.rational import rational


class PrimeField:
    """Random values for the symbols (and for pi and e, which satisfy no rational relation alone) in GF(p)."""

    def __init__(self, seed: int):
        self.prime, self.imaginary = _prime()
        self.random = random.Random(seed)
        self.values: dict[str, int] = {}

    def symbol(self, name: str) -> int:
        if name not in self.values:
            self.values[name] = self.random.randrange(2, self.prime - 1)
        return self.values[name]

    def evaluate(self, node, budget: Budget) -> int:
        """Value of a rational function; raises Inexact where the tree is none."""
        budget.spend()
        p = self.prime
        match node:
            case s.Num(value):
                return self._fraction(value)
            case s.Sym(name):
                return self.symbol(name)
            case s.Const("i"):
                return self.imaginary
            case s.Const("pi" | "e" as name):
                return self.symbol("\\" + name)
            case s.Add(terms):
                return sum(self.evaluate(term, budget) for term in terms) % p
            case s.Mul(factors):
                return self._product(factors, budget)
            case s.Div(top, bottom):
                return self._ratio(self.evaluate(top, budget), self.evaluate(bottom, budget))
            case s.Pow(base, exponent):
                return self._power(base, exponent, budget)
            case s.Apply(name, (arg,)):
                return self.symbol(name) * self.evaluate(arg, budget) % p
            case s.Quantity(value, _) | s.Func("degrees", (value,)):
                return self.evaluate(value, budget)
            case s.Func():
                return self._fraction(rational(node, budget))
        raise Inexact("no rational function")

    def _product(self, factors: tuple, budget: Budget) -> int:
        product = 1
        for factor in factors:
            product = product * self.evaluate(factor, budget) % self.prime
        return product

    def _fraction(self, value: Fraction) -> int:
        return self._ratio(value.numerator % self.prime, value.denominator % self.prime)

    def _ratio(self, top: int, bottom: int) -> int:
        if bottom == 0:
            raise Undefined("division by zero")
        return top if bottom == 1 else top * pow(bottom, -1, self.prime) % self.prime

    def _power(self, base, exponent, budget: Budget) -> int:
        value, power = self.evaluate(base, budget), rational(exponent, budget)
        if power.denominator != 1:
            raise Inexact("a root")
        if value == 0:
            if power <= 0:
                raise Undefined("a power of zero")
            return 0
        return pow(value, int(power) % (self.prime - 1), self.prime)


@cache
def _prime() -> tuple[int, int]:
    """A random prime of 120 bits that is 1 modulo 4, with a square root of -1."""
    draw = random.SystemRandom()
    while True:
        candidate = draw.randrange(1 << 117, 1 << 118) * 4 + 1
        if all(candidate % small for small in (3, 5, 7, 11, 13, 17, 19, 23)) and all(_passes(candidate, base) for base in range(2, 26)):
            break
    while True:
        root = pow(draw.randrange(2, candidate), (candidate - 1) // 4, candidate)
        if root * root % candidate == candidate - 1:
            return candidate, root


def _passes(n: int, base: int) -> bool:
    """Miller-Rabin for one base."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    x = pow(base, odd, n)
    return x in (1, n - 1) or any((x := x * x % n) == n - 1 for _ in range(twos - 1))
