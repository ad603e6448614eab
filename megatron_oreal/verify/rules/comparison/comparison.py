"""Typed comparison of two syntax trees: lists, tuples, sets, matrices, relations, ratios, bases, words, expressions."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.assignments import (
    assigned,
    function_and_value,
    is_name,
    is_plain_combination,
    turned,
    without_variable,
)
from megatron_oreal.verify.rules.comparison.equations import difference, same_equation, same_inequality
from megatron_oreal.verify.rules.comparison.forms import (
    as_assignments,
    plain_form,
    same_parameter,
    series_of,
    turned_round,
    with_index_of,
    with_sign,
)
from megatron_oreal.verify.rules.reading.vocabulary import words
from megatron_oreal.verify.rules.values.numeric import Numeric, same_scalar
from megatron_oreal.verify.rules.values.rational import Budget, CannotDecide, Undefined, based_value
from megatron_oreal.verify.rules.values.realsets import infinity, names_set, same_set

MAX_ITEMS = 64
_CONSTANTS_OF_INTEGRATION = words("C c K k C_1 c_1 C_0")
_SCALES = words("c f")
_EQUALS = ("=", "≈")


class Comparison:
    """One comparison of a gold answer and an answer, with its budget of work. `same` raises CannotDecide."""

    def __init__(self):
        self.budget = Budget()

    def same(self, gold, answer) -> bool:
        """Whether two trees are the same answer."""
        gold, answer = plain_form(gold), plain_form(answer)
        gold, answer = same_parameter(gold, answer), same_parameter(answer, gold)
        if gold == answer:
            return True
        gold, answer = _with_letter_unit(gold, answer), _with_letter_unit(answer, gold)
        if _units_differ(gold, answer):
            return False
        gold, answer = _bare(gold), _bare(answer)
        if gold == answer:
            return True
        if isinstance(gold, s.Listing) or isinstance(answer, s.Listing):
            return self.same_listing(gold, answer)
        if names_set(gold) or names_set(answer):
            return self.same_set(gold, answer)
        if isinstance(gold, s.Relation) or isinstance(answer, s.Relation):
            return self.same_relation(gold, answer)
        return self.same_value(gold, answer)

    def same_value(self, gold, answer) -> bool:
        """Neither is a list, a set or a relation."""
        match gold, answer:
            case s.Bracketed(), s.Bracketed():
                return (gold.left, gold.right) == (answer.left, answer.right) and self.pairwise(gold.items, answer.items)
            case (s.Bracketed(), s.Matrix()) | (s.Matrix(), s.Bracketed()):
                return self.same_vector(gold, answer)
            case s.Matrix(), s.Matrix():
                shapes = [(len(m.rows), len(m.rows[0])) for m in (gold, answer)]
                return shapes[0] == shapes[1] and self.pairwise(s.children(gold), s.children(answer))
            case (s.Ratio(), _) | (_, s.Ratio()):
                return self.same_ratio(gold, answer)
            case (s.Based(), _) | (_, s.Based()):
                return self.same_based(gold, answer)
            case (s.Bracketed() | s.Matrix(), _) | (_, s.Bracketed() | s.Matrix()):
                return False
            case s.Sym(name, text), s.Sym(other, other_text) if text or other_text:
                return self.same_words(name, other)
        if any(isinstance(tree, s.Sym) and tree.text for tree in (gold, answer)):
            raise CannotDecide("words against a value")
        if infinity(gold) or infinity(answer):
            return infinity(gold) == infinity(answer)
        return self.same_expression(gold, answer)

    def same_expression(self, gold, answer) -> bool:
        ours, theirs = s.symbols(gold), s.symbols(answer)
        only_ours, only_theirs = ours - theirs, theirs - ours
        if len(only_ours) == len(only_theirs) == 1 and only_ours | only_theirs <= _CONSTANTS_OF_INTEGRATION:
            answer = _renamed(answer, *only_theirs, *only_ours)
        return same_scalar(*self.with_series_named(gold, answer), self.budget)

    def with_series_named(self, gold, answer) -> tuple:
        """Sums and integrals that both sides contain, as letters; raises CannotDecide where one is left over."""
        theirs = series_of(answer)
        for number, ours in enumerate(series_of(gold)):
            for other in theirs:
                if ours.name == other.name and self.pairwise(ours.args, with_index_of(ours, other).args):
                    name = s.Sym(f"series {number}")
                    gold, answer = s.replaced(gold, ours, name), s.replaced(answer, other, name)
                    break
        if series_of(gold) or series_of(answer):
            raise CannotDecide("a sum or an integral that is not worked out")
        return gold, answer

    def same_words(self, gold: str, answer: str) -> bool:
        if gold.casefold() == answer.casefold():
            return True
        raise CannotDecide("different words")

    def pairwise(self, gold: tuple, answer: tuple) -> bool:
        return len(gold) == len(answer) and all(self.same(g, a) for g, a in zip(gold, answer, strict=True))

    def same_vector(self, gold, answer) -> bool:
        """A row or column against a tuple in round brackets."""
        matrix, items = (gold, answer) if isinstance(gold, s.Matrix) else (answer, gold)
        if 1 not in (len(matrix.rows), len(matrix.rows[0])) or (items.left, items.right) != ("(", ")"):
            return False
        return self.pairwise(s.children(matrix), items.items)

    # -- lists

    def same_listing(self, gold, answer) -> bool:
        """At least one side is a list: braces and unbracketed lists have no order, ( ) has."""
        gold, answer = as_assignments(gold), as_assignments(answer)
        for listed, other in ((gold, answer), (answer, gold)):
            if isinstance(other, s.Bracketed) and isinstance(listed, s.Listing):
                return self.listed_in_order(listed, other)
            if names_set(other) and not isinstance(other, s.Bracketed):
                return self.list_as_set(gold, answer)
        ours, theirs = _items(gold), _items(answer)
        if max(len(ours), len(theirs)) > MAX_ITEMS:
            raise CannotDecide("too long a list")
        ours, theirs = without_variable(ours, theirs)
        in_order = self.in_alphabetical_order(ours, theirs)
        if in_order is not None:
            return in_order
        if len(ours) == len(theirs) and not (_braced(gold) or _braced(answer)):
            return self.rearranged(ours, theirs)
        return self.matched(ours, theirs) and self.matched(theirs, ours)

    def rearranged(self, items: list, others: list) -> bool:
        """1, 2, 2 is 2, 1, 2 and not 1, 1, 2."""
        left = list(others)
        for item in items:
            if not self.found(item, left):
                return False
            del left[next(k for k, other in enumerate(left) if self.surely_same(item, other))]
        return True

    def surely_same(self, item, other) -> bool:
        try:
            return self.same(item, other)
        except CannotDecide:
            return False

    def in_alphabetical_order(self, ours: list, theirs: list) -> bool | None:
        """`k = 45, n = 2` against `45, 2`: by position. None where neither list is of such assignments."""
        for stated, plain in ((ours, theirs), (theirs, ours)):
            if all(map(assigned, stated)) and not any(isinstance(item, s.Relation) for item in plain):
                return self.pairwise(tuple(item.sides[1] for item in stated), tuple(plain))
        return None

    def listed_in_order(self, listed: s.Listing, other: s.Bracketed) -> bool:
        """`x = 1, y = 2` and `1, 2` against (1, 2)."""
        if listed.braced or (other.left, other.right) != ("(", ")"):
            return False
        values = [item.sides[1] if assigned(item) else item for item in listed.items]
        return self.pairwise(tuple(values), other.items)

    def list_as_set(self, gold, answer) -> bool:
        try:
            return same_set(gold, answer, self.budget)
        except CannotDecide:
            return False

    def matched(self, items: list, others: list) -> bool:
        """Every item equals one of the others."""
        return all(self.found(item, others) for item in items)

    def found(self, item, others: list) -> bool:
        doubt = None
        for other in others:
            try:
                if self.same(item, other):
                    return True
            except CannotDecide as error:
                doubt = error
        if doubt is not None:
            raise doubt
        return False

    # -- sets of reals

    def same_set(self, gold, answer) -> bool:
        if isinstance(gold, s.Bracketed) and isinstance(answer, s.Bracketed):
            return self.same_value(gold, answer)
        try:
            return same_set(gold, answer, self.budget)
        except CannotDecide:
            return self.same_structure(gold, answer)

    def same_structure(self, gold, answer) -> bool:
        """Sets with letters in them: part by part."""
        match gold, answer:
            case s.SetOp(op, parts), s.SetOp(other, others) if op == other:
                return len(parts) == len(others) and (
                    self.pairwise(parts, others)
                    if op == "∖"
                    else self.matched(list(parts), list(others)) and self.matched(list(others), list(parts))
                )
            case s.Relation(("∈",), (s.Sym(), named)), other if not isinstance(other, s.Relation):
                return self.same(named, other)
            case other, s.Relation(("∈",), (s.Sym(), named)) if not isinstance(other, s.Relation):
                return self.same(other, named)
            case s.Relation(ops, sides), s.Relation(other_ops, other_sides) if len(ops) == len(other_ops) > 1 and ops != other_ops:
                turned = None if None in (*sides, *other_sides) else turned_round(answer)
                return turned is not None and turned.ops == ops and self.pairwise(sides, turned.sides)
            case s.Relation(ops, sides), s.Relation(other_ops, other_sides):
                if None not in (*sides, *other_sides) and len(ops) == len(other_ops) == 1 and ops[0] not in "∈≠":
                    return same_inequality(gold, answer, self.budget)
                return ops == other_ops and None not in (*sides, *other_sides) and self.pairwise(sides, other_sides)
            case s.Sym(name, text), s.Sym(other, other_text) if text or other_text:
                return self.same_words(name, other)
        if _is_number(gold) or _is_number(answer):
            return False
        raise CannotDecide("different kinds of sets")

    # -- relations

    def same_relation(self, gold, answer) -> bool:
        if not isinstance(answer, s.Relation):
            value = self.assigned_value(gold, strict=True)
            return value is not None and self.same(value, answer)
        if not isinstance(gold, s.Relation):
            value = self.assigned_value(answer, strict=False)
            if value is not None and self.same(gold, value):
                return True
            return self.same_rounded(gold, answer)
        if len(gold.ops) == len(answer.ops) == 1 and gold.ops[0] in _EQUALS and answer.ops[0] in _EQUALS:
            return self.same_equality(gold, answer)
        if gold.ops == answer.ops == ("≡",):
            return self.same_congruence(gold, answer)
        if gold.ops == answer.ops and None not in (*gold.sides, *answer.sides):
            return self.pairwise(gold.sides, answer.sides)
        last, other = self.assigned_value(gold, strict=False), self.assigned_value(answer, strict=False)
        return last is not None and other is not None and gold.sides[0] == answer.sides[0] and self.same(last, other)

    def same_equality(self, gold: s.Relation, answer: s.Relation) -> bool:
        if None in (*gold.sides, *answer.sides):
            return self.same(gold.sides[1], answer.sides[1])
        ours, theirs = turned(gold), turned(answer)
        if is_name(ours.sides[0]) and is_name(theirs.sides[0]):
            names = ours.sides[0], theirs.sides[0]
            if names[0] == names[1] or function_and_value(*names):
                return self.same(ours.sides[1], theirs.sides[1])
        return same_equation(ours, theirs, self.budget)

    def same_congruence(self, gold: s.Relation, answer: s.Relation) -> bool:
        """x = r modulo m: the same x and m, and r up to multiples of m."""
        match gold.sides, answer.sides:
            case (of, s.Func("mod", (rest, modulus))), (other, s.Func("mod", (other_rest, other_modulus))):
                gap = s.Func("mod", (difference(rest, other_rest), modulus))
                return self.same(of, other) and self.same(modulus, other_modulus) and self.same(s.Num(Fraction(0)), gap)
        return self.pairwise(gold.sides, answer.sides)

    def assigned_value(self, relation: s.Relation, strict: bool):
        """The value that `x = 5`, `f(x) = 5` or `2 + 3 = 5` states; None where it states none (7 = 5, x > 5, 2x = 5).

        A gold equation (`strict`) gives its value only where it names it: y = 3 does, x - y = 3 is an equation.
        """
        if not set(relation.ops) <= set(_EQUALS):
            return None
        *before, value = relation.sides
        if relation.ops[-1] == "≈" and len(before) > 1:  # = sqrt(2) ≈ 1.41: the exact one counts
            *before, value = before
        elif relation.ops == ("≈",) and before[0] is not None and not s.symbols(before[0]):
            return before[0]
        for side in before:
            stated = side is None or is_name(side) or (not strict and is_plain_combination(side)) or self.equal_numbers(side, value)
            if not stated:
                turned = is_name(value) and len(before) == 1
                return side if turned else None
        return value

    def same_rounded(self, gold, answer: s.Relation) -> bool:
        """70/9 ≈ 7.78 against a gold answer that is rounded itself."""
        if answer.ops[-1] != "≈" or answer.sides[-2] is None or s.symbols(answer):
            return False
        exact, rounded = (Numeric({}, self.budget, complex_plane=False)(side) for side in answer.sides[-2:])
        return abs(exact - rounded) < abs(rounded) / 100 and self.same(gold, answer.sides[-1])

    def equal_numbers(self, side, value) -> bool:
        if s.symbols(side) or s.symbols(value):
            return False
        return self.same(side, value)

    # -- ratios and bases

    def same_ratio(self, gold, answer) -> bool:
        """a : b up to a common factor; what may be a time of day only as it stands."""
        if isinstance(gold, s.Ratio) and isinstance(answer, s.Ratio):
            if self.pairwise(gold.parts, answer.parts):
                return True
            if len(gold.parts) != len(answer.parts) or gold.clock or answer.clock:
                return False
            cross = ((s.Mul((g, answer.parts[0])), s.Mul((a, gold.parts[0]))) for g, a in zip(gold.parts, answer.parts, strict=True))
            return all(self.same(*pair) for pair in cross)
        ratio, other = (gold, answer) if isinstance(gold, s.Ratio) else (answer, gold)
        if len(ratio.parts) != 2 or not isinstance(other, s.Div):
            return False
        return self.same(s.Div(*ratio.parts), other)

    def same_based(self, gold, answer) -> bool:
        """Digits in a base; the base may be left out, the digits not converted."""
        if isinstance(gold, s.Based) and isinstance(answer, s.Based):
            if gold.base == answer.base:
                return (gold.digits, gold.negative) == (answer.digits, answer.negative)
            try:
                return based_value(gold) == based_value(answer)
            except Undefined:
                return False
        based, other = (gold, answer) if isinstance(gold, s.Based) else (answer, gold)
        sign = "-" if based.negative else ""
        return isinstance(gold, s.Based) and isinstance(other, s.Num) and str(other.value) == sign + based.digits


def _with_letter_unit(node, other):
    """54 m beside a quantity in metres: the letter is the unit, not a variable."""
    if not isinstance(other, s.Quantity) or not isinstance(node, s.Mul) or not other.unit:
        return node
    letter, power = other.unit[0], other.unit[1:]
    unit = s.Sym(letter) if not power else s.Pow(s.Sym(letter), s.Num(Fraction(power))) if power.isdigit() else None
    return s.Quantity(s.Mul(node.factors[:-1]), other.unit) if node.factors[-1] == unit else node


def _bare(node):
    """Without the unit, and with the plus-minus sign written out as two values."""
    while isinstance(node, s.Quantity):
        node = node.value
    if isinstance(node, s.Listing) and len(node.items) == 1 and node.items[0] != s.Sym("emptyset"):
        return _bare(node.items[0])
    if not isinstance(node, (s.Listing, s.Condition)) and any(isinstance(n, s.Sign) for n in s.walk(node)):
        return s.Listing((with_sign(node, 1), with_sign(node, -1)), braced=True)
    return node


def _items(node) -> list:
    """Items of a list with its plus-minus signs and inner unbracketed lists written out."""
    node = _bare(node)
    if not isinstance(node, s.Listing):
        return [node]
    items = []
    for item in node.items:
        inner = _bare(item)
        items.extend(_items(inner) if isinstance(inner, s.Listing) else [item])
    return items


def _braced(node) -> bool:
    return isinstance(node, s.Listing) and node.braced


def _is_number(node) -> bool:
    return not isinstance(node, (s.Bracketed, s.Listing, s.Matrix, s.SetOp, s.Relation, s.Condition)) and not s.symbols(node)


def _renamed(node, old: str, new: str):
    if isinstance(node, s.Sym) and node.name == old:
        return s.Sym(new)
    return s.rebuild(node, lambda child: _renamed(child, old, new))


def _units(node) -> set[str]:
    units = {n.unit for n in s.walk(node) if isinstance(n, s.Quantity) and n.unit}
    return units | {"degree" for n in s.walk(node) if isinstance(n, s.Func) and n.name == "degrees"}


def _units_differ(gold, answer) -> bool:
    """Both name a unit that is known, and not the same one. A unit on one side only may be left out."""
    ours, theirs = _units(gold), _units(answer)
    if ours & _SCALES and theirs & _SCALES:
        return ours & _SCALES != theirs & _SCALES
    return len(ours) == len(theirs) == 1 and ours != theirs
