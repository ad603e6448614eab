"""Units beside values: which are left out, and which differ."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s

_SCALES = frozenset("cfk")
"""Celsius, Fahrenheit and kelvin: of temperatures, the first two named beside degrees."""


def with_letter_unit(node, other):
    """54 m beside a quantity in metres: the letter is the unit, not a variable."""
    if not isinstance(other, s.Quantity) or not isinstance(node, s.Mul) or not other.unit:
        return node
    letter, power = other.unit[0], other.unit[1:]
    unit = s.Sym(letter) if not power else s.Pow(s.Sym(letter), s.Num(Fraction(power))) if power.isdigit() else None
    return s.Quantity(s.Mul(node.factors[:-1]), other.unit) if node.factors[-1] == unit else node


def units_differ(gold, answer) -> bool:
    """Both name a unit that is known, and not the same one. A unit on one side only may be left out."""
    ours, theirs = _units(gold), _units(answer)
    if ours & _SCALES and theirs & _SCALES:
        return ours & _SCALES != theirs & _SCALES
    return len(ours) == len(theirs) == 1 and ours != theirs


def _units(node) -> set[str]:
    units = {n.unit for n in s.walk(node) if isinstance(n, s.Quantity) and n.unit}
    return units | {"degree" for n in s.walk(node) if isinstance(n, s.Func) and n.name == "degrees"}
