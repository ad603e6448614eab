"""Sets of reals, by membership; where letters are in them, part by part."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.equations import same_inequality
from megatron_oreal.verify.rules.comparison.forms import as_interval, turned_round
from megatron_oreal.verify.rules.comparison.parts import PartByPart, same_words
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.values.realsets import same_set


class Sets(PartByPart):
    """Compares sets; their parts are compared by the Comparison that derives from this."""

    def same_set(self, gold, answer) -> bool:
        """At least one side can only be read as a set of reals."""
        try:
            return same_set(gold, answer, self.budget)
        except CannotDecide:
            return self.same_structure(gold, answer)

    def same_structure(self, gold, answer) -> bool:
        """Sets with letters in them."""
        gold, answer = as_interval(gold, answer), as_interval(answer, gold)
        if isinstance(gold, s.Bracketed) and isinstance(answer, s.Bracketed):
            return (gold.left, gold.right) == (answer.left, answer.right) and self.pairwise(gold.items, answer.items)
        match gold, answer:
            case s.SetOp(op, parts), s.SetOp(other, others) if op == other:
                return len(parts) == len(others) and self.same_operands(op, parts, others)
            case s.Relation(("∈",), (s.Sym(), named)), other if not isinstance(other, s.Relation):
                return self.same(named, other)
            case other, s.Relation(("∈",), (s.Sym(), named)) if not isinstance(other, s.Relation):
                return self.same(other, named)
            case s.Relation(), s.Relation():
                return self.same_order(gold, answer)
            case s.Sym(name, text), s.Sym(other, other_text) if text or other_text:
                return same_words(name, other)
        if _is_number(gold) or _is_number(answer):
            return False
        raise CannotDecide("different kinds of sets")

    def same_operands(self, op: str, parts: tuple, others: tuple) -> bool:
        """Of a union or an intersection in any order."""
        if op == "∖":
            return self.pairwise(parts, others)
        return self.matched(list(parts), list(others)) and self.matched(list(others), list(parts))

    def same_order(self, gold: s.Relation, answer: s.Relation) -> bool:
        """Inequalities: a < b < c and c > b > a."""
        complete = None not in (*gold.sides, *answer.sides)
        if len(gold.ops) == len(answer.ops) > 1 and gold.ops != answer.ops:
            turned = turned_round(answer) if complete else None
            return turned is not None and turned.ops == gold.ops and self.pairwise(gold.sides, turned.sides)
        if complete and len(gold.ops) == len(answer.ops) == 1 and gold.ops[0] not in "∈≠":
            mirrored = turned_round(answer)
            if mirrored is not None and mirrored.ops == gold.ops and mirrored.sides == gold.sides:
                return True
            return same_inequality(gold, answer, self.budget)
        return gold.ops == answer.ops and complete and self.pairwise(gold.sides, answer.sides)


def _is_number(node) -> bool:
    return not isinstance(node, (s.Bracketed, s.Listing, s.Matrix, s.SetOp, s.Relation, s.Condition)) and not s.symbols(node)
