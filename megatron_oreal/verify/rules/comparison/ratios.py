"""Ratios up to a common factor, and digits in a base."""

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.parts import PartByPart
from megatron_oreal.verify.rules.values.budget import CannotDecide, Undefined
from megatron_oreal.verify.rules.values.rational import based_value


class Ratios(PartByPart):
    """Compares ratios; their parts are compared by the Comparison that derives from this."""

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
        if self.same(s.Div(*ratio.parts), other):
            if ratio.clock:
                raise CannotDecide("a time of day, or a ratio")
            return True
        return False


def same_based(gold, answer) -> bool:
    """Digits in a base; the base may be left out, the digits not converted."""
    if isinstance(gold, s.Based) and isinstance(answer, s.Based):
        if gold.base == answer.base:
            return (gold.digits, gold.negative) == (answer.digits, answer.negative)
        try:
            return based_value(gold) == based_value(answer)
        except Undefined:
            return False
    based, other = (gold, answer) if isinstance(gold, s.Based) else (answer, gold)
    if based.base == 10 and isinstance(other, s.Num):
        return based_value(based) == other.value
    sign = "-" if based.negative else ""
    return isinstance(gold, s.Based) and isinstance(other, s.Num) and str(other.value) == sign + based.digits
