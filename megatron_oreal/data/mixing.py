"""In which order several sets have their turns."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm


class Turns:
    """Whose turn each draw is, so that every set has its share of the draws, exactly.

    A set's share is its weight divided by the sum of all weights; how many questions the set has does not matter. After n draws it has had
    share * n of them, up to less than one, for every n: whenever a set is less than its share behind, others come first, and of those that
    may come the one whose next turn is due first (Balinski and Young's quota method, which keeps within one of the share on both sides).
    The order depends on the weights alone: the number of draws done is all there is to save.
    """

    def __init__(self, weights: Sequence[float]):
        """`weights`: above 0; taken as they are written, 0.1 is a tenth."""
        exact = [Fraction(str(weight)) for weight in weights]
        whole = [int(weight * lcm(*(w.denominator for w in exact))) for weight in exact]
        self._weights = [weight // gcd(*whole) for weight in whole]
        self._round = sum(self._weights)  # after so many draws all of it begins again
        self._done, self._counts = 0, [0] * len(whole)

    def at(self, draw: int) -> tuple[int, int]:
        """Whose turn the draw is (both from 0), and which one of its own that is."""
        self._go_to(draw)
        turn = self._next()
        return turn, self._counts[turn]

    def before(self, draw: int) -> list[int]:
        """How many turns each has had by then."""
        self._go_to(draw)
        return list(self._counts)

    def _go_to(self, draw: int) -> None:
        if not self._done <= draw < self._done + self._round:
            rounds = draw // self._round
            self._done, self._counts = rounds * self._round, [rounds * weight for weight in self._weights]
        while self._done < draw:
            self._counts[self._next()] += 1
            self._done += 1

    def _next(self) -> int:
        may = [i for i, weight in enumerate(self._weights) if self._counts[i] * self._round < weight * (self._done + 1)]
        return min(may, key=lambda i: Fraction(self._counts[i] + 1, self._weights[i]))
