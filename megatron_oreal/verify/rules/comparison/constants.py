"""Arbitrary constants: C and K at the end of an integral are one, c and k in a formula are two."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.budget import CannotDecide

_CONSTANTS = frozenset(("C", "c", "K", "k", "C_1", "c_1", "C_0"))
_VARIABLES = frozenset(("x", "y", "z", "t", "u", "v", "w", "s", "r", "\\theta"))
MAX_PARAMETERS = 1
"""Beside a constant of integration: ax^2 + bx + c has two, and its c is no such constant."""


def constants_alike(gold, answer):
    """The answer with its constant of integration named as the gold answer names it.

    A constant is one where it stands once, alone in a sum beside a variable (x^2 + C), or is written large before an exponential. Raises
    CannotDecide where two letters that often are constants stand so, but small.
    """
    ours, theirs = s.symbols(gold), s.symbols(answer)
    only_ours, only_theirs = ours - theirs, theirs - ours
    if len(only_ours) != 1 or len(only_theirs) != 1 or not only_ours | only_theirs <= _CONSTANTS:
        return answer
    (mine,), (other,) = only_ours, only_theirs
    if mine.lower() == other.lower() or mine[0].isupper():
        if _is_constant(gold, mine) and _is_constant(answer, other):
            return _renamed(answer, other, mine)
    elif _is_constant(gold, mine) and _is_constant(answer, other):
        raise CannotDecide("constants of two names")
    return answer


def _is_constant(node, name: str) -> bool:
    times = sum(isinstance(n, s.Sym) and n.name == name for n in s.walk(node))
    others = s.symbols(node) - {name}
    if times != 1 or not others & _VARIABLES or len(others - _VARIABLES) > MAX_PARAMETERS:
        return False
    if isinstance(node, s.Add) and s.Sym(name) in node.terms:
        return True
    exponential = any(isinstance(n, s.Pow) and n.base == s.Const("e") for n in s.walk(node))
    return name[0].isupper() and exponential and isinstance(node, s.Mul) and s.Sym(name) in node.factors


def _renamed(node, old: str, new: str):
    if isinstance(node, s.Sym) and node.name == old:
        return s.Sym(new)
    return s.rebuild(node, lambda child: _renamed(child, old, new))
