"""Statements that give a name a value: what counts as a name, and lists of such statements."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.wording.vocabulary import changes


def assigned(item) -> bool:
    """x = 5."""
    return isinstance(item, s.Relation) and item.ops == ("=",) and is_name(item.sides[0])


def without_variable(ours: list, theirs: list) -> tuple[list, list]:
    """`x = 1 or x = 2` and `1, 2`: drop the variable where all assignments of both lists share it, and no other equation is among them."""
    if any(isinstance(item, s.Relation) and item.ops == ("=",) and not assigned(item) for item in (*ours, *theirs)):
        return ours, theirs
    names = {_root_name(item.sides[0]) for item in (*ours, *theirs) if assigned(item)}
    if len(names) != 1:
        return ours, theirs
    return tuple([item.sides[1] if assigned(item) else item for item in items] for items in (ours, theirs))


def _root_name(node):
    """x for x_1 and x_2: roots of one equation."""
    if isinstance(node, s.Sym) and node.name[1:2] == "_" and node.name[2:].isdigit():
        return s.Sym(node.name[0])
    if isinstance(node, s.Bracketed):
        return s.Bracketed(node.left, tuple(map(_root_name, node.items)), node.right)
    return node


def is_name(node) -> bool:
    """A variable, f(x), or a few capitals and signs that name a quantity (AB, angle ABC): what an answer is assigned to."""
    match node:
        case s.Sym(name, True):
            return not changes(name)
        case s.Sym() | s.Apply():
            return True
        case s.Func("abs", (inner,)):
            return is_name(inner)
        case s.Ratio(parts, _) | s.Bracketed(_, parts, _):
            return all(map(is_name, parts))
        case s.Div(top, bottom):
            return is_plain_combination(top) and is_plain_combination(bottom)
        case s.Mul((s.Sym(), s.SetOp())):  # P(A \cap B)
            return True
        case s.Mul(factors):
            return all(isinstance(f, (s.Sym, s.Apply)) and (f.name[0].isupper() or f.name[0] == "\\" or f.name == "m") for f in factors)
    return False


def is_plain_combination(node) -> bool:
    """a + b, xy, b - a, a/b: sums and products of names without a number, whose value an answer may state; -x is none."""
    match node:
        case s.Const(name):
            return name == "e"
        case s.Add(parts):
            return all(map(is_plain_combination, map(_unsigned, parts)))
        case s.Mul(factors):
            return all(map(is_plain_combination, factors)) and bool(s.symbols(node))
        case s.Div(top, bottom):
            return is_plain_combination(top) and is_plain_combination(bottom)
    return is_name(node)


def _unsigned(term):
    """x for -x."""
    match term:
        case s.Mul((s.Num(value), *factors)) if value == -1 and factors:
            return factors[0] if len(factors) == 1 else s.Mul(tuple(factors))
    return term


def is_combination(node) -> bool:
    """Of at least two names by sums, products, powers and functions, without a number of its own: x_1^2 + x_2^2, \\sin A \\sin B."""
    return len(s.symbols(node)) > 1 and _is_combined(node)


def _is_combined(node) -> bool:
    match node:
        case s.Pow(base, s.Num(power)):
            return power.denominator == 1 and abs(power) <= 4 and _is_combined(base)
        case s.Div(s.Num(one), bottom):
            return one == 1 and _is_combined(bottom)
        case s.Div(top, bottom):
            return _is_combined(top) and _is_combined(bottom)
        case s.Add(parts) | s.Mul(parts) | s.Func("sin" | "cos" | "tan" | "cot" | "log" | "ln", parts):
            return all(map(_is_combined, map(_unsigned, parts))) and bool(s.symbols(node))
    return is_plain_combination(node)


def function_and_value(one, other) -> bool:
    """f(x) = ... against y = ..., or f = ...: the same statement."""
    if {type(one), type(other)} != {s.Apply, s.Sym}:
        return False
    applied, letter = (one, other) if isinstance(one, s.Apply) else (other, one)
    return letter.name in ("y", applied.name)


def without_name_of_set(node, other):
    """A \\cap B = { 1, 3 } and D = [1, 2) beside a set without a name."""
    match node:
        case s.Relation(("=",), (name, s.Listing(_, True) | s.Bracketed() | s.SetOp() | s.Condition() as value)) if is_name(name):
            named = isinstance(other, s.Relation) or (isinstance(other, s.Listing) and any(map(assigned, other.items)))
            return node if named else value
    return node


def same_head(one, other) -> bool:
    """f(x) and f(t), y for f(x), the same name."""
    if isinstance(one, s.Apply) and isinstance(other, s.Apply):
        return one.name == other.name
    return one == other or function_and_value(one, other)


def in_its_variable(relation: s.Relation, other: s.Relation) -> s.Relation:
    """f(t) = t^2 as f(x) = x^2 beside the other relation's f(x)."""
    match relation.sides, other.sides:
        case (s.Apply(name, (s.Sym() as mine,)), value), (s.Apply(same, (s.Sym() as theirs,)), _) if (
            name == same and mine != theirs and theirs.name not in s.symbols(value)
        ):
            return s.Relation(relation.ops, (other.sides[0], s.replaced(value, mine, theirs)))
    return relation


_TUPLES = frozenset("abcdhijkmnpqrstuvwxyz")


def in_order_of_names(items: tuple) -> tuple:
    """Values of assignments as a tuple has them: those of single letters by the alphabet, others as they stand."""
    names = [item.sides[0].name if assigned(item) and isinstance(item.sides[0], s.Sym) else "" for item in items]
    if all(name in _TUPLES for name in names) and len(set(names)) == len(names):
        items = tuple(item for _, item in sorted(zip(names, items, strict=True), key=lambda pair: pair[0]))
    return tuple(item.sides[1] if assigned(item) else item for item in items)


def turned(relation: s.Relation) -> s.Relation:
    """5 = x as x = 5."""
    left, right = relation.sides
    return s.Relation(relation.ops, (right, left)) if is_name(right) and not is_name(left) else relation
