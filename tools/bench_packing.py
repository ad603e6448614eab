"""How full and how level the micro-batches of an OREAL step are, against the released trainer's way of making them:

    python tools/bench_packing.py [--dp 4 16] [--seeds 10]

Lengths: see draw_lengths; 64 questions, dimensions of Qwen2.5-7B, a budget of 16,384 tokens. Ranges are over the seeds.

The released trainer takes the selected trajectories in their order (right, wrong, right, wrong ...), gives each data-parallel rank a
contiguous part, and packs every two into a micro-batch, whatever their lengths. It has no budget: memory must hold the largest
micro-batch that occurs, so that is its slot here; the limit it would have to be sure of, 2 x 16,384, would make its share smaller.

Columns:
    filled           tokens over the slots of the micro-batches that hold any (an empty one is computed as one token of padding)
    of all slots     the same over all micro-batches, empty ones too
    possible         the most that a partition with as many micro-batches on every rank can have of all slots
    max/mean FLOPs   of the busiest rank over the mean; what the others wait for
"""

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import Qwen2Config

from megatron_oreal.learn.packing import Cost, Partition, partition

QUESTIONS = 64
SHORTEST, LONGEST = 200, 16384
BUDGET = 16384
RIGHT, WRONG = (3600, 0.65), (5600, 0.70)  # median, spread of the logarithm
QWEN_7B = Qwen2Config(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4)


def draw_lengths(seed: int, questions: int = QUESTIONS) -> list[int]:
    """Tokens of one right and one wrong trajectory of each question, in that order.

    Assumed, not measured: lengths of long solutions are skewed, hence lognormal; wrong ones are longer, as they wander or are cut at
    the limit of 16,384 tokens (spec, One iteration), where some 6 % of them end. The mean is some 5,500 tokens.
    """
    generator = random.Random(seed)
    drawn = (generator.lognormvariate(math.log(median), spread) for _ in range(questions) for median, spread in (RIGHT, WRONG))
    return [min(LONGEST, max(SHORTEST, round(length))) for length in drawn]


def released_partition(samples: int, dp: int) -> Partition:
    """Two trajectories a micro-batch in the order they come, contiguous parts for the ranks, what does not divide left out."""
    part = samples // dp
    return [[list(range(i, min(i + 2, (r + 1) * part))) for i in range(r * part, (r + 1) * part, 2)] for r in range(dp)]


@dataclass(frozen=True)
class Figures:
    """The columns of the table for one batch."""

    filled: float
    of_all_slots: float
    possible: float | None
    max_over_mean: float
    micro_batches: int
    seconds: float | None


COLUMNS = {"filled": ".1%", "of_all_slots": ".1%", "possible": ".1%", "max_over_mean": ".3f", "micro_batches": "d", "seconds": ".3f"}


def figures(made: Partition, lengths: Sequence[int], slot: int, cost: Cost, seconds: float | None = None) -> Figures:
    """What a partition amounts to; `slot`: tokens that a micro-batch has room for; seconds: None for one without a budget."""
    dp, count, tokens = len(made), len(made[0]), sum(lengths)
    work = [sum(cost(lengths[i]) for micro in rank for i in micro) for rank in made]
    return Figures(
        filled=tokens / (slot * sum(bool(micro) for rank in made for micro in rank)),
        of_all_slots=tokens / (slot * dp * count),
        possible=tokens / (slot * dp * -(-tokens // (slot * dp))) if seconds else None,
        max_over_mean=max(work) * dp / sum(work),
        micro_batches=count,
        seconds=seconds,
    )


def ours(lengths: Sequence[int], dp: int, cost: Cost) -> Figures:
    """partition() under the budget."""
    start = time.perf_counter()
    made = partition(lengths, dp, BUDGET, cost)
    return figures(made, lengths, BUDGET, cost, time.perf_counter() - start)


def released(lengths: Sequence[int], dp: int, cost: Cost) -> Figures:
    """The released trainer's micro-batches, each slot as large as the largest of them."""
    made = released_partition(len(lengths), dp)
    slot = max(sum(lengths[i] for i in micro) for rank in made for micro in rank)
    return figures(made, lengths, slot, cost)


def _range(values: Sequence[float | None], form: str) -> str:
    if None in values:
        return "-"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dp", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    arguments = parser.parse_args()
    cost = Cost.of(QWEN_7B, head_dim=128)
    batches = [draw_lengths(seed, arguments.questions) for seed in range(arguments.seeds)]
    print(f"{2 * arguments.questions} trajectories, {_range([sum(b) / len(b) for b in batches], ',.0f')} tokens in the mean\n")
    print("| DP | micro-batches | filled | of all slots | possible | max/mean FLOPs | micro-batches a rank | time, s |")
    print("|---" * 8 + "|")
    for dp in arguments.dp:
        for name, policy in (("by budget and FLOPs", ours), ("released: every two", released)):
            rows = [policy(lengths, dp, cost) for lengths in batches]
            cells = [_range([getattr(r, column) for r in rows], form) for column, form in COLUMNS.items()]
            print(f"| {dp} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
