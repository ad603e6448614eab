"""Whether two expressions are equal: the most exact way that both sides allow."""

from contextlib import suppress

from megatron_oreal.verify.rules.values.budget import Budget, Inexact
from megatron_oreal.verify.rules.values.prime_field import PrimeField
from megatron_oreal.verify.rules.values.probing import agree
from megatron_oreal.verify.rules.values.rational import rational


def same_scalar(a, b, budget: Budget) -> bool:
    """Equality of two expressions; raises CannotDecide.

    Exactly where both are rational numbers or rational functions, otherwise by probing.
    """
    if a == b:
        return True
    with suppress(Inexact):
        return rational(a, budget) == rational(b, budget)
    with suppress(Inexact):
        field = PrimeField(seed=1)
        return field.evaluate(a, budget) == field.evaluate(b, budget)
    return agree(a, b, budget)
