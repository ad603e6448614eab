"""Quotients of factorials that are too large by themselves: 100000!/99999!"""

import math
from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s

MAX_ARGUMENT = 10**9
MAX_FACTORS = 400


def factorial_quotient(top, bottom, value) -> Fraction | None:
    """top / bottom where each is one factorial, or one times other factors; None where it is none. `value` gives that of a part."""
    above, below = _parted(top), _parted(bottom)
    if above is None or below is None:
        return None
    high, low = (value(part[0]) for part in (above, below))
    if (
        high.denominator != 1
        or low.denominator != 1
        or not (0 <= high <= MAX_ARGUMENT and 0 <= low <= MAX_ARGUMENT)
        or abs(high - low) > MAX_FACTORS
    ):
        return None
    quotient = Fraction(math.prod(range(int(min(high, low)) + 1, int(max(high, low)) + 1)))
    quotient = quotient if high >= low else 1 / quotient
    others = [math.prod((value(factor) for factor in part[1]), start=Fraction(1)) for part in (above, below)]
    return quotient * others[0] / others[1] if others[1] else None


def _parted(node) -> tuple | None:
    """The argument of the one factorial, and the other factors."""
    factors = node.factors if isinstance(node, s.Mul) else (node,)
    factorials = [factor for factor in factors if isinstance(factor, s.Func) and factor.name == "factorial"]
    if len(factorials) != 1:
        return None
    return factorials[0].args[0], tuple(factor for factor in factors if factor is not factorials[0])
