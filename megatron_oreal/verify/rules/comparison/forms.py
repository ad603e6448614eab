"""One form for what is written in several ways: applied to a syntax tree before it is compared."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.families import as_family
from megatron_oreal.verify.rules.comparison.progressions import with_dots_filled
from megatron_oreal.verify.rules.comparison.vectors import named_point, untransposed
from megatron_oreal.verify.rules.values.matrices import worked_out
from megatron_oreal.verify.rules.wording.vocabulary import changes

_WHOLE = ("integers", "naturals", "naturals from 1")
_UNKNOWNS = frozenset("xyz")
MAX_SERIES = 8


def plain_form(node):
    """Matrices worked out and [[1, 2], [3, 4]] one of them; x in a listed set as the list; a family without its condition."""
    node = _family(as_family(with_dots_filled(untransposed(named_point(worked_out(node))))))
    match node:
        case s.Relation(("∈",), (name, s.Listing(_, True) as listed)) if _is_variable(name):
            return listed
        case s.Condition(s.Bracketed("(", names, ")"), s.Listing(stated, False)) if _all_stated(names, stated):
            values = {relation.sides[0]: relation.sides[1] for relation in stated}
            return s.Listing((s.Bracketed("(", tuple(values[name] for name in names), ")"),), True)
        case s.Bracketed("[", rows, "]") if all(isinstance(row, s.Bracketed) and (row.left, row.right) == ("[", "]") for row in rows):
            return s.Matrix(tuple(row.items for row in rows)) if len({len(row.items) for row in rows}) == 1 else node
        case s.Quantity(s.Relation(ops, sides), unit):  # x = 5 cm
            return s.Relation(ops, (*sides[:-1], s.Quantity(sides[-1], unit)))
    return node


def _is_variable(node) -> bool:
    return (isinstance(node, s.Sym) and not (node.text and changes(node.name))) or (
        isinstance(node, s.Bracketed) and all(map(_is_variable, node.items))
    )


def _family(node):
    """`n = 5k + 2, k \\in Z` and `{ 5k + 2 : k \\in Z }` as their first part, its parameters named in one way."""
    match node:
        case s.Condition(s.Sym() as name, s.Listing((s.Relation(("=",), (left, value)), *conditions))) if (
            left == name
        ):  # { x : x = 2k, k in Z }
            parts = (value,)
        case s.Condition(s.Sym() as name, s.Listing((s.Relation(_, (left, *_)) as relation, *conditions))) if (
            left == name
        ):  # { x : x != k, k in Z }
            parts = (relation,)
        case s.Condition(value, condition) if not isinstance(value, (s.Sym, s.Relation)):
            parts, conditions = (value,), condition.items if isinstance(condition, s.Listing) else (condition,)
        case s.Listing(items, _):
            items = _each_a_member(items)
            conditions = tuple(item for item in items if _ranges(item))
            parts = tuple(item for item in items if item not in conditions)
        case _:
            return node
    names = {item.sides[0].name: item.sides[1].name for item in conditions if _ranges(item)}
    used = s.symbols(s.Listing(parts, False))
    if not parts or not names or len(names) != len(set(conditions)) or not used.issuperset(names):
        return node
    if "reals" in names.values() and not all(_states_with(part, set(names)) for part in parts):
        return node
    for number, (name, kind) in enumerate(names.items(), start=1):
        parts = tuple(s.replaced(part, s.Sym(name), s.Sym(f"{kind} {number}")) for part in parts)
    return parts[0] if len(parts) == 1 else s.Listing(parts, False)


def _each_a_member(items: tuple) -> tuple:
    """a, b \\in R as a \\in R, b \\in R."""
    members, kind = [], None
    for item in reversed(items):
        kind = item.sides[1] if _ranges(item) else kind
        letter = isinstance(item, s.Sym) and not item.text and len(item.name) == 1
        members.append(s.Relation(("∈",), (item, kind)) if kind is not None and letter else item)
        kind = kind if letter or _ranges(item) else None
    return tuple(reversed(members))


def _ranges(node) -> bool:
    """k \\in Z, or c \\in R with a letter that is not the usual unknown."""
    match node:
        case s.Relation(("∈",), (s.Sym(letter), s.Sym(name))):
            return name in _WHOLE or (name == "reals" and letter not in _UNKNOWNS)
    return False


def _states_with(part, parameters: set) -> bool:
    """f(x) = cx and (t, 2t - 1): an equation solved for what has no parameter, or a point."""
    match part:
        case s.Relation(("=",), (left, _)):
            return not parameters & s.symbols(left)
    return isinstance(part, s.Bracketed)


def same_parameter(node, other):
    """`n\\pi` beside a family whose parameter is named: its only letter that can be is that parameter."""
    missing = [name for name in s.symbols(other) - s.symbols(node) if name.startswith(("integers ", "naturals ", "reals "))]
    known = s.symbols(other) | {name.name for name in _assigned_names(node)}
    usual = "kmnltj" if missing and not missing[0].startswith("reals ") else "abcdkmnrstCAB"
    letters = [name for name in s.symbols(node) - known if name in tuple(usual)]
    if len(missing) != len(letters):
        return node
    for letter, name in zip(sorted(letters), sorted(missing), strict=True):
        node = s.replaced(node, s.Sym(letter), s.Sym(name))
    return node


def _assigned_names(node) -> list[s.Sym]:
    items = node.items if isinstance(node, s.Listing) else (node,)
    return [item.sides[0] for item in items if isinstance(item, s.Relation) and isinstance(item.sides[0], s.Sym)]


def in_one_chain(node):
    """x = y, y = z as x = y = z, its letters in order; all else as it is."""
    items = node.items if isinstance(node, s.Listing) and not node.braced else (node,)
    if not all(isinstance(item, s.Relation) and set(item.ops) == {"="} and _are_letters(item.sides) for item in items):
        return node
    joined = set(items[0].sides)
    for item in items[1:]:
        if not joined & set(item.sides):
            return node
        joined |= set(item.sides)
    names = sorted(joined, key=lambda sym: sym.name)
    return s.Relation(("=",) * (len(names) - 1), tuple(names)) if len(names) > 2 else node


def _are_letters(sides: tuple) -> bool:
    return all(isinstance(side, s.Sym) and not side.text for side in sides)


def with_chains_apart(node):
    """a = b = 1 and (a, b) = (1, 1) as a = 1, b = 1; the chains of a list too."""
    node = as_assignments(node)
    if not isinstance(node, s.Listing) or node.braced:
        return _chain_apart(node)
    apart = [_chain_apart(item) for item in node.items]
    return s.Listing(tuple(part for item in apart for part in (item.items if isinstance(item, s.Listing) else (item,))), False)


def _chain_apart(node):
    match node:
        case s.Relation(ops, (*names, value)) if len(names) > 1 and set(ops) == {"="} and _are_letters(tuple(names)):
            return s.Listing(tuple(s.Relation(("=",), (name, value)) for name in names), False)
    return node


def chains_apart(gold, answer) -> tuple:
    """Chains as lists where the other side is a list, a tuple or a chain."""
    apart = with_chains_apart(gold), with_chains_apart(answer)
    return apart if all(isinstance(node, (s.Listing, s.Bracketed)) for node in apart) else (gold, answer)


def bare(node):
    """Without the unit, and with the plus-minus sign written out as two values."""
    while isinstance(node, s.Quantity):
        node = node.value
    if isinstance(node, s.Listing) and len(node.items) == 1 and not _is_set(node.items[0]):
        return bare(node.items[0])
    if not isinstance(node, (s.Listing, s.Condition)) and any(isinstance(n, s.Sign) for n in s.walk(node)):
        return s.Listing((s.with_sign(node, 1), s.with_sign(node, -1)), braced=True)
    return node


def _is_set(node) -> bool:
    """What makes { node } a set of sets."""
    return node == s.Sym("emptyset") or (isinstance(node, s.Listing) and node.braced)


def _all_stated(names: tuple, stated: tuple) -> bool:
    """Each name has its value: { (x, y) : x = 1, y = 2 }."""
    equations = all(isinstance(item, s.Relation) and item.ops == ("=",) for item in stated)
    return equations and len(stated) == len(names) and {item.sides[0] for item in stated} == set(names)


def as_interval(node, other):
    """a < x < b beside an interval between letters, as (a, b)."""
    match node:
        case s.Relation(("<" | "≤" as first, "<" | "≤" as last), (low, s.Sym(), high)) if isinstance(other, s.Bracketed):
            return s.Bracketed("(" if first == "<" else "[", (low, high), ")" if last == "<" else "]")
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
    """The other sum with the index of the first, in the subscripts too."""
    match series.args[0], other.args[0]:
        case s.Relation(("=",), (index, _)), s.Relation(("=",), (renamed, _)) if index != renamed:
            if not any(_mentions(n, index.name) for n in s.walk(s.Listing(other.args, False))):
                return _reindexed(s.replaced(other, renamed, index), renamed.name, index.name)
    return other


def _mentions(node, letter: str) -> bool:
    """Whether a letter is a variable, or in its subscript."""
    return isinstance(node, (s.Sym, s.Const)) and (node.name == letter or letter in node.name.partition("_")[2])


def _reindexed(node, old: str, new: str):
    if isinstance(node, s.Sym):
        return _with_subscript(node, old, new)
    return s.rebuild(node, lambda child: _reindexed(child, old, new))


def _with_subscript(node, old: str, new: str):
    """a_k as a_j."""
    name, mark, subscript = node.name.partition("_")
    if not mark or len(old) != 1 or "\\" in subscript:
        return node
    return s.Sym(f"{name}_{subscript.replace(old, new)}", node.text)
