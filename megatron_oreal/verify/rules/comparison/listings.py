"""Lists: braces and unbracketed lists have no order, round brackets have."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.assignments import assigned, in_order_of_names, without_variable
from megatron_oreal.verify.rules.comparison.forms import bare, with_chains_apart
from megatron_oreal.verify.rules.comparison.parts import PartByPart
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.values.realsets import names_set, same_set

MAX_ITEMS = 64


class Listings(PartByPart):
    """Compares lists; their items are compared by the Comparison that derives from this."""

    def same_listing(self, gold, answer) -> bool:
        """At least one side is a list."""
        gold, answer = with_chains_apart(gold), with_chains_apart(answer)
        gold, answer = _joined(gold, answer), _joined(answer, gold)
        for listed, other in ((gold, answer), (answer, gold)):
            if isinstance(other, s.Matrix) and all(map(assigned, _items(listed))):
                other = s.Bracketed("(", s.children(other), ")") if 1 in (len(other.rows), len(other.rows[0])) else other
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

    def in_alphabetical_order(self, ours: list, theirs: list) -> bool | None:
        """`k = 45, n = 2` against `45, 2`: by position. None where neither list is of such assignments."""
        for stated, plain in ((ours, theirs), (theirs, ours)):
            if all(map(assigned, stated)) and not any(isinstance(item, s.Relation) for item in plain):
                return self.pairwise(in_order_of_names(tuple(stated)), tuple(plain))
        return None

    def listed_in_order(self, listed: s.Listing, other: s.Bracketed) -> bool:
        """`x = 1, y = 2` and `1, 2` against (1, 2)."""
        names = [item.sides[0] for item in listed.items if assigned(item)]
        if listed.braced or (other.left, other.right) != ("(", ")") or len(set(names)) < len(names):
            return False  # x = 1, x = 2 are two values, no point
        return self.pairwise(in_order_of_names(listed.items), other.items)

    def list_as_set(self, gold, answer) -> bool:
        try:
            return same_set(gold, answer, self.budget)
        except CannotDecide:
            return False


def _joined(node, other):
    """(-\\infty, 1), (2, \\infty) beside a union, as one."""
    listed = isinstance(node, s.Listing) and all(isinstance(item, s.Bracketed) and len(item.items) == 2 for item in node.items)
    return s.SetOp("∪", node.items) if listed and isinstance(other, s.SetOp) and other.op == "∪" else node


def _items(node) -> list:
    """Items of a list with its plus-minus signs and inner unbracketed lists written out."""
    node = bare(node)
    if not isinstance(node, s.Listing):
        return [node]
    items = []
    for item in node.items:
        inner = item if isinstance(item, s.Listing) and item.braced else bare(item)
        items.extend(_items(inner) if isinstance(inner, s.Listing) and inner is not item else [item])
    return items


def _braced(node) -> bool:
    return isinstance(node, s.Listing) and node.braced
