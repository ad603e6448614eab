"""One form for what is written in several ways: applied to a syntax tree before it is compared."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.values.matrices import worked_out

_WHOLE = ("integers", "naturals")
MAX_SERIES = 8


def plain_form(node):
    """Matrices worked out and [[1, 2], [3, 4]] one of them; x in a listed set as the list; a family without its condition."""
    node = _family(worked_out(node))
    match node:
        case s.Relation(("∈",), (name, s.Listing(_, True) as listed)) if _is_variable(name):
            return listed
        case s.Bracketed("[", rows, "]") if all(isinstance(row, s.Bracketed) and (row.left, row.right) == ("[", "]") for row in rows):
            return s.Matrix(tuple(row.items for row in rows)) if len({len(row.items) for row in rows}) == 1 else node
        case s.Quantity(s.Relation(ops, sides), unit):  # x = 5 cm
            return s.Relation(ops, (*sides[:-1], s.Quantity(sides[-1], unit)))
    return node


def _is_variable(node) -> bool:
    return isinstance(node, s.Sym) or (isinstance(node, s.Bracketed) and all(map(_is_variable, node.items)))


def _family(node):
    """`n = 5k + 2, k \\in Z` and `{ 5k + 2 : k \\in Z }` as their first part, its parameters named in one way."""
    match node:
        case s.Condition(value, condition) if not isinstance(value, (s.Sym, s.Relation)):
            parts, conditions = (value,), condition.items if isinstance(condition, s.Listing) else (condition,)
        case s.Listing(items, False):
            conditions = tuple(item for item in items if _ranges_over_integers(item))
            parts = tuple(item for item in items if item not in conditions)
        case _:
            return node
    names = {item.sides[0].name: item.sides[1].name for item in conditions if _ranges_over_integers(item)}
    used = s.symbols(s.Listing(parts, False))
    if not parts or not names or len(names) != len(conditions) or not used.issuperset(names):
        return node
    for number, (name, kind) in enumerate(names.items(), start=1):
        parts = tuple(s.replaced(part, s.Sym(name), s.Sym(f"{kind} {number}")) for part in parts)
    return parts[0] if len(parts) == 1 else s.Listing(parts, False)


def _ranges_over_integers(node) -> bool:
    return isinstance(node, s.Relation) and node.ops == ("∈",) and isinstance(node.sides[0], s.Sym) and _is_whole(node.sides[1])


def _is_whole(node) -> bool:
    return isinstance(node, s.Sym) and node.name in _WHOLE


def same_parameter(node, other):
    """`n\\pi` beside a family whose parameter is named: its only letter among k, m, n, l, t is that parameter."""
    missing = [name for name in s.symbols(other) - s.symbols(node) if name.startswith(_WHOLE)]
    letters = [name for name in s.symbols(node) - s.symbols(other) if name in ("k", "m", "n", "l", "t", "j")]
    if len(missing) == len(letters) == 1:
        return s.replaced(node, s.Sym(letters[0]), s.Sym(missing[0]))
    return node


def bare(node):
    """Without the unit, and with the plus-minus sign written out as two values."""
    while isinstance(node, s.Quantity):
        node = node.value
    if isinstance(node, s.Listing) and len(node.items) == 1 and node.items[0] != s.Sym("emptyset"):
        return bare(node.items[0])
    if not isinstance(node, (s.Listing, s.Condition)) and any(isinstance(n, s.Sign) for n in s.walk(node)):
        return s.Listing((s.with_sign(node, 1), s.with_sign(node, -1)), braced=True)
    return node


def turned_round(relation: s.Relation) -> s.Relation | None:
    """c > b > a for a < b < c; None where a sign has no mirror image."""
    if not set(relation.ops) <= set(s.MIRRORED):
        return None
    return s.Relation(tuple(s.MIRRORED[op] for op in reversed(relation.ops)), tuple(reversed(relation.sides)))


def as_assignments(node):
    """(x, y) = (1, 2) as x = 1, y = 2."""
    match node:
        case s.Relation(("=",), (s.Bracketed(_, names, _), s.Bracketed(_, values, _))) if len(names) == len(values):
            return s.Listing(tuple(s.Relation(("=",), pair) for pair in zip(names, values, strict=True)), False)
    return node


def series_of(node) -> list[s.Func]:
    """Sums, products and integrals that were not written out, none of them within another, at most a few."""
    if isinstance(node, s.Func) and node.name in "∑∏∫":
        return [node]
    return [found for child in s.children(node) for found in series_of(child)][:MAX_SERIES]


def with_index_of(series: s.Func, other: s.Func) -> s.Func:
    """The other sum with the index of the first."""
    match series.args[0], other.args[0]:
        case s.Relation(("=",), (index, _)), s.Relation(("=",), (renamed, _)) if index != renamed:
            return s.replaced(other, renamed, index)
    return other
