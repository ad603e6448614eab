"""How a packed sequence is cut over context-parallel and sequence-parallel ranks: one rule for batches and for attention."""

from dataclasses import dataclass

from megatron_oreal.model.config import sequence_multiple


@dataclass(frozen=True)
class Split:
    """How the tokens of a micro-batch are split over ranks.

    Context parallelism cuts each sequence into 2 cp parts and gives rank r the parts r and 2 cp - 1 - r, so that causal attention
    costs every rank the same; sequence parallelism then cuts what a rank has evenly.
    """

    cp: int = 1
    cp_rank: int = 0
    sp: int = 1  # TP size under sequence parallelism, else 1
    tokens_multiple: int = 1  # what the kernels want of the tokens on one rank

    @property
    def sequence_multiple(self) -> int:
        """Every sequence is padded to a multiple of this."""
        return sequence_multiple(self.cp)

    @property
    def total_multiple(self) -> int:
        """The tokens of a micro-batch are padded to a multiple of this, by a sequence of padding."""
        return self.sequence_multiple * self.sp * self.tokens_multiple

    def padded(self, length: int) -> int:
        """The length of a sequence with its padding."""
        return length + -length % self.sequence_multiple

    def mine(self, length: int) -> list[int]:
        """Positions within a (padded) sequence of this length that this rank holds, in its order."""
        if self.cp == 1:
            return list(range(length))
        part = length // (2 * self.cp)
        last = 2 * self.cp - 1 - self.cp_rank
        return [*range(self.cp_rank * part, (self.cp_rank + 1) * part), *range(last * part, (last + 1) * part)]
