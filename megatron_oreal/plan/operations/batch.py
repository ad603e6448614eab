"""What an engine decodes at one time."""

from dataclasses import dataclass

from megatron_oreal.plan.operations.serving import Served


@dataclass(eq=False)
class Decoding:
    """A sequence while it is decoded."""

    context: int  # tokens that were cached when it joined
    left: int  # tokens to be sampled from there
    joined: int = 0  # steps of its batch before


class Batch:
    """Sequences that get a token in every step; each step takes as long as all of their contexts make it."""

    def __init__(self, served: Served):
        self._served, self._steps, self._before = served, 0, 0  # before: contexts less steps at joining, summed up
        self.sequences: list[Decoding] = []

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def cached(self) -> int:
        """Tokens of all contexts."""
        return self._before + len(self.sequences) * self._steps

    def sampled(self, sequence: Decoding) -> int:
        """Its tokens since it joined."""
        return self._steps - sequence.joined

    def join(self, sequence: Decoding) -> None:
        sequence.joined = self._steps
        self._before += sequence.context - self._steps
        self.sequences.append(sequence)

    def leave(self, sequence: Decoding) -> None:
        self._before -= sequence.context - sequence.joined
        self.sequences.remove(sequence)

    def to_next_end(self) -> int:
        """Steps until the first of them ends."""
        return min(s.joined + s.left for s in self.sequences) - self._steps

    def seconds(self, steps: int) -> float:
        """Of so many steps, none of which ends a sequence but the last."""
        count = len(self.sequences)
        return steps * self._served.decode_s(count, self.cached / count + steps / 2)

    def advance(self, steps: int) -> list[Decoding]:
        """Do them; those that ended, which have left."""
        self._steps += steps
        ended = [s for s in self.sequences if s.joined + s.left <= self._steps]
        for sequence in ended:
            self.leave(sequence)
        return ended
