"""Vectors in i, j and k against tuples and columns, and points with their letters."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s

_ZERO, _ONE = s.Num(Fraction(0)), s.Num(Fraction(1))
_DECORATED = {s.Sym(f"\\hat{{{letter}}}"): place for place, letter in enumerate("ijk")}
_PLAIN = {s.Const("i"): 0, s.Sym("j"): 1, s.Sym("k"): 2}
MAX_NODES = 200


def in_components(node) -> s.Bracketed | None:
    """3i + 4j as (3, 4), with k as a third; None for what is no sum of multiples of at least two of them."""
    nodes = list(s.walk(node))
    if len(nodes) > MAX_NODES:
        return None
    for basis in (_DECORATED, _PLAIN):
        used = {basis[n] for n in nodes if n in basis}
        if len(used) > 1 or (used and basis is _DECORATED):
            parts = _components(node, basis)
            if parts is None or parts[3] != _ZERO:
                return None
            return s.Bracketed("(", parts[: 3 if 2 in used else 2], ")")
    return None


def _components(node, basis: dict) -> tuple | None:
    """Multiples of i, j and k, and what has none of them."""
    if node in basis:
        return tuple(_ONE if place == basis[node] else _ZERO for place in range(4))
    if not any(n in basis for n in s.walk(node)):
        return (_ZERO, _ZERO, _ZERO, node)
    match node:
        case s.Add(terms):
            parts = [_components(term, basis) for term in terms]
            return None if None in parts else tuple(_sum(column) for column in zip(*parts, strict=True))
        case s.Mul(factors):
            vectors = [factor for factor in factors if any(n in basis for n in s.walk(factor))]
            others = tuple(factor for factor in factors if factor is not vectors[0])
            inner = _components(vectors[0], basis) if len(vectors) == 1 else None
            return None if inner is None else tuple(part if part == _ZERO else s.Mul((*others, part)) for part in inner)
        case s.Div(top, bottom) if not any(n in basis for n in s.walk(bottom)):
            inner = _components(top, basis)
            return None if inner is None else tuple(part if part == _ZERO else s.Div(part, bottom) for part in inner)
    return None


def _sum(terms: tuple):
    terms = tuple(term for term in terms if term != _ZERO)
    return _ZERO if not terms else terms[0] if len(terms) == 1 else s.Add(terms)


def named_point(node):
    """A(1, 2) as A = (1, 2)."""
    match node:
        case s.Mul((s.Sym(name), s.Bracketed("(", _, ")") as point)) if name[:1].isupper() and len(name.rstrip("'")) <= 4:
            return s.Relation(("=",), (s.Sym(name), point))
        case s.Apply(name, items) if name[:1].isupper() and len(items) > 1:
            return s.Relation(("=",), (s.Sym(name), s.Bracketed("(", items, ")")))
    return node


def untransposed(node):
    """(3, 4)^T as (3, 4): a column is compared with a tuple by its entries."""
    match node:
        case s.Pow(s.Bracketed(left, items, right), power) if is_transpose(power) and (left, right) in (("(", ")"), ("[", "]")):
            return s.Bracketed("(", items, ")")
    return node


def is_transpose(power) -> bool:
    return isinstance(power, s.Sym) and power.name in ("T", "\\top", "\\intercal", "t")
