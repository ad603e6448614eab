"""Typed comparison of two syntax trees: whatever they are made of, down to values, expressions and words."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.forms import bare, plain_form, same_parameter, series_of, with_index_of
from megatron_oreal.verify.rules.comparison.listings import Listings
from megatron_oreal.verify.rules.comparison.parts import same_words
from megatron_oreal.verify.rules.comparison.quantities import units_differ, with_letter_unit
from megatron_oreal.verify.rules.comparison.ratios import Ratios, same_based
from megatron_oreal.verify.rules.comparison.relations import Relations
from megatron_oreal.verify.rules.comparison.sets import Sets
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.values.realsets import infinity, names_set
from megatron_oreal.verify.rules.values.scalars import same_scalar

_CONSTANTS_OF_INTEGRATION = frozenset(("C", "c", "K", "k", "C_1", "c_1", "C_0"))


class Comparison(Listings, Sets, Relations, Ratios):
    """One comparison of a gold answer and an answer, with its budget of work."""

    def same(self, gold, answer) -> bool:
        """Whether two trees are the same answer; raises CannotDecide."""
        gold, answer = plain_form(gold), plain_form(answer)
        gold, answer = same_parameter(gold, answer), same_parameter(answer, gold)
        if gold == answer:
            return True
        gold, answer = with_letter_unit(gold, answer), with_letter_unit(answer, gold)
        if units_differ(gold, answer):
            return False
        gold, answer = bare(gold), bare(answer)
        return gold == answer or self.same_kind(gold, answer)

    def same_kind(self, gold, answer) -> bool:
        """Lists, sets and relations are compared as such where one side is one."""
        if isinstance(gold, s.Listing) or isinstance(answer, s.Listing):
            return self.same_listing(gold, answer)
        if isinstance(gold, s.Bracketed) and isinstance(answer, s.Bracketed):
            return (gold.left, gold.right) == (answer.left, answer.right) and self.pairwise(gold.items, answer.items)
        if names_set(gold) or names_set(answer):
            return self.same_set(gold, answer)
        if isinstance(gold, s.Relation) or isinstance(answer, s.Relation):
            return self.same_relation(gold, answer)
        return self.same_value(gold, answer)

    def same_value(self, gold, answer) -> bool:
        """Neither is a list, a set or a relation."""
        match gold, answer:
            case (s.Bracketed(), s.Matrix()) | (s.Matrix(), s.Bracketed()):
                return self.same_vector(gold, answer)
            case s.Matrix(), s.Matrix():
                return self.same_matrix(gold, answer)
            case (s.Ratio(), _) | (_, s.Ratio()):
                return self.same_ratio(gold, answer)
            case (s.Based(), _) | (_, s.Based()):
                return same_based(gold, answer)
            case (s.Bracketed() | s.Matrix(), _) | (_, s.Bracketed() | s.Matrix()):
                return False
            case s.Sym(name, text), s.Sym(other, other_text) if text or other_text:
                return same_words(name, other)
        return self.same_expression(gold, answer)

    def same_matrix(self, gold: s.Matrix, answer: s.Matrix) -> bool:
        shapes = [(len(m.rows), len(m.rows[0])) for m in (gold, answer)]
        return shapes[0] == shapes[1] and self.pairwise(s.children(gold), s.children(answer))

    def same_vector(self, gold, answer) -> bool:
        """A row or column against a tuple in round brackets."""
        matrix, items = (gold, answer) if isinstance(gold, s.Matrix) else (answer, gold)
        if 1 not in (len(matrix.rows), len(matrix.rows[0])) or (items.left, items.right) != ("(", ")"):
            return False
        return self.pairwise(s.children(matrix), items.items)

    def same_expression(self, gold, answer) -> bool:
        """Numbers and expressions; the constants of two integrals may have different names."""
        if any(isinstance(tree, s.Sym) and tree.text for tree in (gold, answer)):
            raise CannotDecide("words against a value")
        if infinity(gold) or infinity(answer):
            return infinity(gold) == infinity(answer)
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


def _renamed(node, old: str, new: str):
    if isinstance(node, s.Sym) and node.name == old:
        return s.Sym(new)
    return s.rebuild(node, lambda child: _renamed(child, old, new))
