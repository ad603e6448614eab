"""Which samples share a micro-batch, and which data-parallel rank computes it: few, full micro-batches and equal work for the ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

BALANCED = 1.01
"""Most FLOPs of a rank over the mean at which exchanging samples ends: FLOPs are an estimate of time, no closer than that."""
WORTH_OPENING = 1.02
"""Most FLOPs of a rank over the mean at which an empty micro-batch stays empty: a further one costs launches and a pipeline slot."""
SLACK_SHARES = (1.0, 0.5)
"""See _pack. Of OREAL-like batches two tries leave one in fifteen with a micro-batch over the least, the first alone one in eleven."""

Partition = list[list[list[int]]]
"""partition[rank][micro-batch] -> indices of its samples."""


@dataclass(frozen=True)
class Cost:
    """FLOPs of a forward pass over a sequence. A backward pass costs twice that, so one estimate levels both."""

    linear: float  # per token
    quadratic: float  # per squared token of a sequence
    feed_forward: float = 0.0  # of linear

    @classmethod
    def of(cls, hf, head_dim: int) -> "Cost":
        """Of the layers of an HF config of model.architecture; the LM head, which sees response tokens alone, is left out.

        Two FLOPs per weight and token; causal attention is two products (scores, values) over half of length x length.
        """
        queries, keys = hf.num_attention_heads * head_dim, hf.num_key_value_heads * head_dim
        per_weight, feed_forward = 2.0 * hf.num_hidden_layers, 3 * hf.hidden_size * hf.intermediate_size
        weights = hf.hidden_size * (2 * queries + 2 * keys) + feed_forward
        return cls(per_weight * weights, per_weight * queries, per_weight * feed_forward)

    def __call__(self, length: int) -> float:
        return length * (self.linear + self.quadratic * length)


def partition(lengths: Sequence[int], dp: int, budget: int, cost: Cost, multiple_of: int = 1) -> Partition:
    """Spread samples over the micro-batches of `dp` ranks.

    Every sample lies in exactly one micro-batch, no micro-batch exceeds the budget, and all ranks have the same number of
    micro-batches, a multiple of `multiple_of` (an interleaved pipeline wants whole rounds). Some may be empty, which is next to
    no work: they get samples only where the ranks' FLOPs would differ by more than WORTH_OPENING without. The same lengths in another
    order give the same partition, up to which of equally long samples is which.

    Args:
        lengths: tokens of each sample as they are computed, for budget and cost alike: padded, under context parallelism.
        dp: number of ranks.
        budget: most tokens of a micro-batch.
        cost: of a sequence of so many tokens.
        multiple_of: divides the number of micro-batches of a rank.
    Raises:
        ValueError: a sample longer than the budget.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    descending = [lengths[i] for i in order]
    if descending and descending[0] > budget:
        raise ValueError(f"a trajectory of {descending[0]} tokens exceeds learn.tokens_per_micro_batch={budget}")
    costs = [cost(length) for length in descending]
    full = _pack(descending, budget)
    rounds = max(1, -(-len(full) // (dp * multiple_of)))
    spread = _Spread(descending, costs, budget, _assign(full, costs, dp, rounds * multiple_of))
    spread.level(BALANCED, may_open=False)
    spread.level(WORTH_OPENING, may_open=True)
    spread.level(BALANCED, may_open=False)
    return [[[order[i] for i in micro] for micro in rank] for rank in spread.ranks]


def _pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Close to the fewest micro-batches, for descending lengths; indices of the samples of each.

    The slack that wastes nothing is what the fewest possible micro-batches would have free each. Half of that is tried as well:
    which one works out is luck.
    """
    total = sum(lengths)
    fewest = max(1, -(-total // budget))
    free = budget - total / fewest
    return min((_pack_within(round(share * free), lengths, budget) for share in SLACK_SHARES), key=len)


def _pack_within(slack: int, lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Each micro-batch takes the longest sample left, and then the longest ones that fill it to within the slack of the budget.

    So the small samples, which fit anywhere, are left for the end. Where none fill it so far, the fullest set is taken.
    """
    left, micro_batches = list(range(len(lengths))), []
    while left:
        first, *others = left
        chosen = {first, *_fill([lengths[i] for i in others], others, budget - lengths[first], slack)}
        micro_batches.append(sorted(chosen))
        left = [i for i in left if i not in chosen]
    return micro_batches


def _fill(lengths: Sequence[int], names: Sequence[int], room: int, slack: int) -> Iterator[int]:
    """Names of a set of samples to fill the room, see _pack_within; bit s of reach[k]: some of the first k samples sum to s."""
    reach, mask = [1], (1 << room + 1) - 1
    for length in lengths:
        reach.append(reach[-1] | reach[-1] << length & mask if length <= room else reach[-1])
    enough = min(reach[-1].bit_length() - 1, max(0, room - slack))
    k = next(k for k, sums in enumerate(reach) if sums.bit_length() - 1 >= enough)
    tokens = reach[k].bit_length() - 1
    while tokens:
        while reach[k - 1] >> tokens & 1:
            k -= 1
        k -= 1
        yield names[k]
        tokens -= lengths[k]


def _assign(micro_batches: list[list[int]], costs: Sequence[float], dp: int, count: int) -> Partition:
    """Dearest first, each to the rank with the least work that has fewer than `count`; empty ones fill up."""
    ranks: Partition = [[] for _ in range(dp)]
    load = [0.0] * dp
    for work, micro in sorted(((sum(costs[i] for i in micro), micro) for micro in micro_batches), reverse=True):
        rank = min((r for r in range(dp) if len(ranks[r]) < count), key=load.__getitem__)
        ranks[rank].append(micro)
        load[rank] += work
    return [rank + [[] for _ in range(count - len(rank))] for rank in ranks]


class _Exchange(NamedTuple):
    """Samples of one rank's micro-batch for samples (or none) of another rank's."""

    work: float  # FLOPs that the one rank gets rid of
    mine: list[int]
    theirs: list[int]
    give: list[int]  # of mine
    take: list[int]  # of theirs

    def apply(self) -> None:
        self.mine[:] = [i for i in self.mine if i not in self.give] + self.take
        self.theirs[:] = [i for i in self.theirs if i not in self.take] + self.give


@dataclass(frozen=True)
class _Spread:
    """A partition that exchanges between its ranks improve in place."""

    lengths: Sequence[int]
    costs: Sequence[float]
    budget: int
    ranks: Partition

    def level(self, most: float, may_open: bool) -> None:
        """Take work off the busiest rank while it has over `most` times the mean; `may_open`: also into empty micro-batches."""
        load = [sum(self._work(micro) for micro in rank) for rank in self.ranks]
        mean = sum(load) / len(load)
        while max(load) > most * mean:
            busiest = load.index(max(load))
            for other in sorted(range(len(load)), key=load.__getitem__):
                exchange = self._best_exchange(busiest, other, load[busiest] - load[other], mean, may_open)
                if exchange:
                    exchange.apply()
                    load[busiest] -= exchange.work
                    load[other] += exchange.work
                    break
            else:
                return

    def _best_exchange(self, busiest: int, other: int, gap: float, mean: float, may_open: bool) -> _Exchange | None:
        """The one that comes closest to halving the gap between two ranks; None where none closes a thousandth of the mean load."""
        best, best_off = None, gap / 2 - mean / 1000
        for exchange in self._exchanges(busiest, other, may_open):
            off = abs(gap / 2 - exchange.work)
            if off < best_off:
                best, best_off = exchange, off
        return best

    def _exchanges(self, busiest: int, other: int, may_open: bool) -> Iterator[_Exchange]:
        """Whole micro-batches for one another, and single samples for another or for nothing, within the budget."""
        for mine, theirs in product(self.ranks[busiest], self.ranks[other]):
            yield _Exchange(self._work(mine) - self._work(theirs), mine, theirs, list(mine), list(theirs))
            most, least = self.budget - self._tokens(theirs), self._tokens(mine) - self.budget
            takes = self._one_of_each_length(theirs)
            for give in self._one_of_each_length(mine) if theirs or may_open else ():
                if self.lengths[give] <= most:
                    yield _Exchange(self.costs[give], mine, theirs, [give], [])
                for take in takes:
                    if least <= self.lengths[give] - self.lengths[take] <= most:
                        yield _Exchange(self.costs[give] - self.costs[take], mine, theirs, [give], [take])

    def _one_of_each_length(self, micro: list[int]) -> list[int]:
        """Equally long samples make the same exchange: of hundreds of short ones all pairs would take longer than they save."""
        return list({self.lengths[i]: i for i in micro}.values())

    def _tokens(self, micro: list[int]) -> int:
        return sum(self.lengths[i] for i in micro)

    def _work(self, micro: list[int]) -> float:
        return sum(self.costs[i] for i in micro)
