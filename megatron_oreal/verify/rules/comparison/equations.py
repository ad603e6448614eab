"""Equations and inequalities in several variables: the same up to rearrangement."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide, Inexact, Undefined
from megatron_oreal.verify.rules.values.prime_field import PrimeField
from megatron_oreal.verify.rules.values.probing import agree

_FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "ln", "log", "root"))
_ORDER = {"<": 1, "≤": 1, ">": -1, "≥": -1}


def same_equation(a: s.Relation, b: s.Relation, budget: Budget) -> bool:
    """left = right against left' = right': the differences are proportional, or vanish at the same points.

    Raises CannotDecide where neither side is a rational function and no constant factor is seen.
    """
    first, second = s.difference(*a.sides), s.difference(*b.sides)
    if s.symbols(first) != s.symbols(second):
        return False
    try:
        return _proportional(first, second, budget) or _same_zeros(first, second, budget)
    except Inexact:
        letters: dict = {}
        one, other = _functions_as_letters(first, letters), _functions_as_letters(second, letters)
        try:
            if _proportional(one, other, budget) or _same_zeros(one, other, budget):
                return True
        except Inexact:
            pass
        return any(agree(first, s.Mul((s.Num(Fraction(sign)), second)), budget) for sign in (1, -1))


def _functions_as_letters(node, letters: dict):
    """\\rho \\cos\\theta = 2 as an equation between \\rho and \\cos\\theta."""
    if isinstance(node, s.Func) and node.name in _FUNCTIONS and s.symbols(node):
        return letters.setdefault(node, s.Sym(f"function {len(letters)}"))
    return s.rebuild(node, lambda child: _functions_as_letters(child, letters))


def _proportional(first, second, budget: Budget) -> bool:
    """first / second is the same constant at two random points."""
    quotients = set()
    for seed in (1, 2):
        field = PrimeField(seed)
        top, bottom = field.evaluate(first, budget), field.evaluate(second, budget)
        if top == 0 or bottom == 0:  # one of them vanishes everywhere
            return top == bottom
        quotients.add(top * pow(bottom, -1, field.prime) % field.prime)
    return len(quotients) == 1


def _same_zeros(first, second, budget: Budget) -> bool:
    """y = 2/x against xy = 2: solved for each variable in which both are linear (over their common denominator)."""
    solved = False
    for name in sorted(s.symbols(first)):
        vanish = [_vanishes_where(*pair, name, budget) for pair in ((first, second), (second, first))]
        if None not in vanish:
            if not all(vanish):
                return False
            solved = True
    return solved


def _vanishes_where(first, second, name: str, budget: Budget) -> bool | None:
    """Whether the second is zero where the first is, solved for one variable; None where the first is not linear in it."""
    field = PrimeField(3)
    values = []
    for x in (1, 2, 3):
        field.values[name] = x
        values.append(field.evaluate(first, budget))
    p = field.prime
    slope = (values[1] - values[0]) % p
    if slope == 0 or (values[2] - values[1]) % p != slope:
        return None
    field.values[name] = (1 - values[0] * pow(slope, -1, p)) % p
    try:
        return field.evaluate(second, budget) == 0
    except Undefined:
        return False


def same_inequality(a: s.Relation, b: s.Relation, budget: Budget) -> bool:
    """left < right in several variables: proportional by a positive factor, or by a negative one and turned round."""
    if len(a.ops) != 1 or len(b.ops) != 1 or not {*a.ops, *b.ops} <= set(_ORDER):
        raise CannotDecide("no single inequality")
    strict = {op in "<>" for op in (*a.ops, *b.ops)}
    first, second = s.difference(*a.sides), s.difference(*b.sides)
    if len(strict) == 2 or s.symbols(first) != s.symbols(second):
        return False
    letters: dict = {}
    first, second = _functions_as_letters(first, letters), _functions_as_letters(second, letters)
    quotient = _quotient(first, second, budget)
    return quotient is not None and (quotient > 0) == (_ORDER[a.ops[0]] == _ORDER[b.ops[0]])


def _quotient(first, second, budget: Budget) -> Fraction | None:
    """The constant first / second, from its residue; None where it is none of a small numerator and denominator."""
    if not _proportional(first, second, budget):
        return None
    field = PrimeField(1)
    residue = field.evaluate(first, budget) * pow(field.evaluate(second, budget), -1, field.prime) % field.prime
    for bottom in range(1, 10_000):
        top = residue * bottom % field.prime
        top = top - field.prime if top > field.prime // 2 else top
        if abs(top) < 10**9:
            return Fraction(top, bottom)
    return None
