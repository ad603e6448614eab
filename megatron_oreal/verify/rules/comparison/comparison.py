"""Typed comparison of two syntax trees: whatever they are made of, down to values, expressions and words."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.assignments import is_name, same_head, without_name_of_set
from megatron_oreal.verify.rules.comparison.constants import constants_alike
from megatron_oreal.verify.rules.comparison.families import Families, has_parameter, rest_as_congruence
from megatron_oreal.verify.rules.comparison.forms import (
    bare,
    chains_apart,
    in_one_chain,
    plain_form,
    same_parameter,
    series_of,
    with_index_of,
)
from megatron_oreal.verify.rules.comparison.listings import Listings
from megatron_oreal.verify.rules.comparison.parts import same_words
from megatron_oreal.verify.rules.comparison.piecewise import pairs_to_compare, pieces
from megatron_oreal.verify.rules.comparison.quantities import units_differ, with_letter_unit
from megatron_oreal.verify.rules.comparison.ratios import Ratios, same_based
from megatron_oreal.verify.rules.comparison.relations import Relations
from megatron_oreal.verify.rules.comparison.sets import Sets
from megatron_oreal.verify.rules.comparison.vectors import in_components
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.values.realsets import infinity, names_set
from megatron_oreal.verify.rules.values.scalars import same_scalar


class Comparison(Listings, Sets, Relations, Ratios, Families):
    """One comparison of a gold answer and an answer, with its budget of work."""

    def same(self, gold, answer) -> bool:
        """Whether two trees are the same answer; raises CannotDecide."""
        gold, answer = plain_form(gold), plain_form(answer)
        gold, answer = rest_as_congruence(gold, answer), rest_as_congruence(answer, gold)
        gold, answer = same_parameter(gold, answer), same_parameter(answer, gold)
        if gold == answer:
            return True
        gold, answer = with_letter_unit(gold, answer), with_letter_unit(answer, gold)
        if units_differ(gold, answer):
            return False
        family = self.same_family(gold, answer) if has_parameter(gold) and has_parameter(answer) else None
        if family is not None:
            return family
        gold, answer = in_one_chain(bare(gold)), in_one_chain(bare(answer))
        return gold == answer or self.same_kind(*chains_apart(gold, answer))

    def same_kind(self, gold, answer) -> bool:
        """Lists, sets and relations are compared as such where one side is one."""
        gold, answer = without_name_of_set(gold, answer), without_name_of_set(answer, gold)
        by_pieces = self.same_pieces(gold, answer)
        if by_pieces is not None:
            return by_pieces
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
            case (s.Bracketed() | s.Matrix(), s.Add() | s.Mul() | s.Div()) | (s.Add() | s.Mul() | s.Div(), s.Bracketed() | s.Matrix()):
                return self.same_components(gold, answer)
            case (s.Bracketed(), s.Matrix()) | (s.Matrix(), s.Bracketed()):
                return self.same_vector(gold, answer)
            case (s.Matrix(), s.Func("binom", parts)) | (s.Func("binom", parts), s.Matrix()):  # a column set as a binomial
                column = s.Matrix(tuple((part,) for part in parts))
                return self.same_matrix(*(column if isinstance(node, s.Func) else node for node in (gold, answer)))
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

    def same_pieces(self, gold, answer) -> bool | None:
        """Functions given by cases, or one of them by one expression; None where neither is."""
        ours, theirs = pieces(gold), pieces(answer)
        if ours is None and theirs is None:
            return None
        if isinstance(gold, s.Relation) and isinstance(answer, s.Relation):
            return gold.ops == answer.ops and same_head(gold.sides[0], answer.sides[0]) and self.same(gold.sides[1], answer.sides[1])
        plain = [side.sides[1] if isinstance(side, s.Relation) and is_name(side.sides[0]) else side for side in (gold, answer)]
        if ours is None:
            ours, theirs, plain = theirs, ours, plain[::-1]
        if theirs is None and isinstance(plain[1], (s.Listing, s.Relation, s.Bracketed)):
            return None
        pairs = pairs_to_compare(ours, theirs or plain[1], self.budget)
        return pairs is not None and all(self.same(*pair) for pair in pairs)

    def same_matrix(self, gold: s.Matrix, answer: s.Matrix) -> bool:
        shapes = [(len(m.rows), len(m.rows[0])) for m in (gold, answer)]
        return shapes[0] == shapes[1] and self.pairwise(s.children(gold), s.children(answer))

    def same_vector(self, gold, answer) -> bool:
        """A row or column against a tuple in round brackets."""
        matrix, items = (gold, answer) if isinstance(gold, s.Matrix) else (answer, gold)
        if 1 not in (len(matrix.rows), len(matrix.rows[0])) or (items.left, items.right) != ("(", ")"):
            return False
        return self.pairwise(s.children(matrix), items.items)

    def same_components(self, gold, answer) -> bool:
        """3i + 4j against (3, 4)."""
        gold, answer = (node if isinstance(node, (s.Bracketed, s.Matrix)) else in_components(node) for node in (gold, answer))
        return gold is not None and answer is not None and self.same(gold, answer)

    def same_expression(self, gold, answer) -> bool:
        """Numbers and expressions; the constants of two integrals may have different names."""
        if any(isinstance(tree, s.Sym) and tree.text for tree in (gold, answer)):
            raise CannotDecide("words against a value")
        if infinity(gold) or infinity(answer):
            return infinity(gold) == infinity(answer)
        vectors = [in_components(node) for node in (gold, answer)]
        if None not in vectors and s.symbols(gold) != s.symbols(answer):
            return self.same(*vectors)
        answer = constants_alike(gold, answer)
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
