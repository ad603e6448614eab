"""The syntax tree of an answer: small immutable nodes, made by the parser, read by whatever asks for values and compares."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Num:
    value: Fraction


@dataclass(frozen=True, slots=True)
class Sym:
    """A variable, a decorated letter, or a phrase (`text` true: compared without regard to case)."""

    name: str
    text: bool = False


@dataclass(frozen=True, slots=True)
class Const:
    name: str  # "pi", "e", "i", "inf"


@dataclass(frozen=True, slots=True)
class Sign:
    """The plus-minus sign as a factor: +1 then -1 (or the other way round for minus-plus)."""

    first: int


@dataclass(frozen=True, slots=True)
class Add:
    terms: tuple


@dataclass(frozen=True, slots=True)
class Mul:
    factors: tuple


@dataclass(frozen=True, slots=True)
class Div:
    top: object
    bottom: object


@dataclass(frozen=True, slots=True)
class Pow:
    base: object
    exponent: object


@dataclass(frozen=True, slots=True)
class Func:
    name: str
    args: tuple


@dataclass(frozen=True, slots=True)
class Apply:
    """f(x): a letter right before a bracket; evaluated as a product, which is consistent for both readings."""

    name: str
    args: tuple


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value with its unit, percent or currency sign (`unit` is canonical where known)."""

    value: object
    unit: str


@dataclass(frozen=True, slots=True)
class Based:
    """Digits with the base as subscript: 1A_{16}."""

    digits: str
    base: int
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple
    clock: bool = False  # may be a time of day


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Two or more items between brackets that keep their order: a tuple, a vector or an interval."""

    left: str  # "(" or "["
    items: tuple
    right: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Items without order: { } (`braced`) or unbracketed."""

    items: tuple
    braced: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """{ x : condition }."""

    variable: object
    condition: object


@dataclass(frozen=True, slots=True)
class SetOp:
    op: str  # "∪", "∩", "∖"
    parts: tuple


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain: sides[0] ops[0] sides[1] ops[1] ...; sides[0] is None where nothing stands before the sign."""

    ops: tuple
    sides: tuple


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple  # of tuples of nodes


ELLIPSIS = "..."
"""Name of the symbol that stands for dots in a list or sum: it has no value."""
MINUS_ONE = Num(Fraction(-1))
MIRRORED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "=": "=", "≠": "≠", "≈": "≈"}
"""Signs of relations as they are read from right to left."""


def children(node) -> tuple:
    """The nodes right under a node."""
    match node:
        case Add(parts) | Mul(parts) | Ratio(parts, _) | Listing(parts, _) | SetOp(_, parts) | Func(_, parts) | Apply(_, parts):
            return parts
        case Div(first, second) | Pow(first, second) | Condition(first, second):
            return (first, second)
        case Quantity(value, _):
            return (value,)
        case Bracketed(_, items, _):
            return items
        case Relation(_, sides):
            return tuple(side for side in sides if side is not None)
        case Matrix(rows):
            return tuple(cell for row in rows for cell in row)
    return ()


def walk(node):
    """Every node of a tree."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(children(node))


def rebuild(node, change):
    """The node with `change` applied to what is right under it."""
    match node:
        case Add(parts) | Mul(parts):
            return type(node)(tuple(map(change, parts)))
        case Div(first, second) | Pow(first, second) | Condition(first, second):
            return type(node)(change(first), change(second))
        case Func(name, parts) | Apply(name, parts) | SetOp(name, parts):
            return type(node)(name, tuple(map(change, parts)))
        case Quantity(value, unit):
            return Quantity(change(value), unit)
        case Listing(parts, mark) | Ratio(parts, mark):
            return type(node)(tuple(map(change, parts)), mark)
        case Bracketed(left, items, right):
            return Bracketed(left, tuple(map(change, items)), right)
        case Relation(ops, sides):
            return Relation(ops, tuple(None if side is None else change(side) for side in sides))
        case Matrix(rows):
            return Matrix(tuple(tuple(map(change, row)) for row in rows))
    return node


def symbols(node) -> frozenset[str]:
    """Names of the variables of a tree."""
    names = {n.name for n in walk(node) if isinstance(n, Sym)}
    return frozenset(names | {n.name for n in walk(node) if isinstance(n, Apply)})


def replaced(node, old, new):
    """The tree with one node put in place of every node equal to another."""
    return new if node == old else rebuild(node, lambda child: replaced(child, old, new))


def times(left, right):
    """left * right; the product of a quantity keeps its unit."""
    if isinstance(left, Quantity) or isinstance(right, Quantity):
        units = [n.unit for n in (left, right) if isinstance(n, Quantity)]
        plain = [n.value if isinstance(n, Quantity) else n for n in (left, right)]
        return Quantity(times(*plain), units[0] if len(units) == 1 else "")
    return Mul((*left.factors, right)) if isinstance(left, Mul) else Mul((left, right))


def difference(left, right):
    """left - right."""
    return Add((left, Mul((MINUS_ONE, right))))


def with_sign(node, sign: int):
    """The tree with its plus-minus signs read as plus (1) or minus (-1)."""
    if isinstance(node, Sign):
        return Num(Fraction(sign * node.first))
    return rebuild(node, lambda child: with_sign(child, sign))
