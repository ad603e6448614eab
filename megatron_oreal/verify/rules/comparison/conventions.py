"""Answers that differ only because two conventions are possible: 50 % and 0.5, 180 degrees and pi."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s


def in_other_conventions(gold, answer) -> list[tuple]:
    """Both trees with what is written in one convention on one side alone put into the other, and which the two are."""
    pairs = []
    for name, uses, changed in (
        ("percent, or a hundredth of it", _is_percent, _hundredth),
        ("degrees, or radians", _is_degrees, _radians),
    ):
        used = [any(uses(node) for node in s.walk(tree)) for tree in (gold, answer)]
        if used[0] != used[1]:
            pairs.append((_each(gold, uses, changed), _each(answer, uses, changed), name))
    return pairs


def _each(node, uses, changed):
    if uses(node):
        return changed(node)
    return s.rebuild(node, lambda child: _each(child, uses, changed))


def _is_percent(node) -> bool:
    return isinstance(node, s.Quantity) and node.unit == "percent"


def _hundredth(node: s.Quantity):
    return s.Div(node.value, s.Num(Fraction(100)))


def _is_degrees(node) -> bool:
    return (isinstance(node, s.Func) and node.name == "degrees") or (isinstance(node, s.Quantity) and node.unit == "degree")


def _radians(node):
    value = node.value if isinstance(node, s.Quantity) else node.args[0]
    return s.Mul((value, s.Const("pi"), s.Num(Fraction(1, 180))))
