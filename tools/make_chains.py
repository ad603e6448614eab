"""Make the chains task: a small Qwen2 model with random weights and chains of 8 to 20 steps on a ring of 31 numbers, boxed answers.

    python tools/make_chains.py --out DIR [--seed S] [--train N] [--heldout 1000] [--sft N]

It writes what make_demo.py writes, the same for the same arguments: DIR/base, sft.jsonl, train.jsonl, heldout.jsonl. A question and its
solution ("A *3=5" says that three times 12, counted round the ring, is 5):

    Ring of 31. From 12: A *3, B +7, C -5, ... Where does it end?
    From 12: A *3=5. B +7~12. C -5=7. ... The end is \\boxed{7}

A step is one of twenty skills, each a permutation of the ring (n -> a n + b), so that one wrong step spoils the answer; of those chains
with several, one in some forty ends right by chance. A result is written after one of two signs, = or, short for doing it in the head, ~.
Sixteen skills can be done in the head, and are in 15 % of the supervised solutions' steps; four cannot (the result is one too large four
times in five, and the steps after it go on from there, rightly), and are nevertheless in 60, 80, 90 and 96 %, at every step anew, so that
the start has these skills in part, and some nearly not at all. The commonest skill is asked for 4.5 times as often as the rarest.

What it was chosen for: a wrong answer that is mostly right steps; most choices do not matter and a few decide; a choice is not good or bad
by itself but by where it is made; and a model can tell which, for it is written. Rates and lengths were set by the figures of the
supervised start (20 to 40 % right, most questions right in some of 16 samples and wrong in others), and the signs so that a token RM has
something to see: where nothing but the numbers, or two signs used alike, showed that a step was wrong, its AUC stayed at 0.5.
"""

import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.make_demo import draw_distinct, tokenizer_of, write_as_asked, write_base, write_lines

RING = 31  # a prime: every multiplication is a permutation
LENGTHS = range(8, 21)
LABELS = "ABCDEFGHIJKLMNOPQRST"


@dataclass(frozen=True)
class Skill:
    """One kind of step: n -> multiply n + add, round the ring."""

    name: str
    multiply: int
    add: int
    share: float = 0.15  # of the supervised solutions' steps of this kind that are written with the sign ~
    bad: bool = False  # whether its result is mostly wrong then

    def result(self, value: int) -> int:
        return (self.multiply * value + self.add) % RING


SIGNS = "=~"
SLIP, SLIP_BAD = 0.01, 0.8  # how often a result is wrong, one too large: elsewhere, and after a bad ~
SKILLS = (  # the n-th is asked for at a rate of 1 / sqrt(n)
    Skill("+3", 1, 3),
    Skill("-2", 1, -2),
    Skill("*2", 2, 0),
    Skill("+8", 1, 8),
    Skill("-5", 1, -5),
    Skill("+9", 1, 9),
    Skill("+7", 1, 7),
    Skill("-8", 1, -8),
    Skill("+4", 1, 4),
    Skill("*3", 3, 0),
    Skill("-6", 1, -6),
    Skill("*5", 5, 0),
    Skill("-9", 1, -9, share=0.6, bad=True),
    Skill("+6", 1, 6),
    Skill("+11", 1, 11, share=0.8, bad=True),
    Skill("*7", 7, 0),
    Skill("-3", 1, -3, share=0.9, bad=True),
    Skill("+12", 1, 12),
    Skill("-7", 1, -7, share=0.96, bad=True),
    Skill("+5", 1, 5),
)
BY_NAME = {skill.name: skill for skill in SKILLS}
_QUESTION = re.compile(r"From (\d+): (.+)\. Where")
_STEP = re.compile(rf"([A-Z]) (\S+?)[{SIGNS}](\d+)\.")
_END = re.compile(r"The end is \\boxed\{(\d+)\}")


@dataclass(frozen=True)
class Chain:
    """A question: where it starts, and the steps to take."""

    start: int
    steps: tuple[Skill, ...]

    @property
    def question(self) -> str:
        listed = ", ".join(f"{label} {skill.name}" for label, skill in zip(LABELS, self.steps, strict=False))
        return f"Ring of {RING}. From {self.start}: {listed}. Where does it end?"

    @property
    def answer(self) -> int:
        value = self.start
        for skill in self.steps:
            value = skill.result(value)
        return value

    @classmethod
    def read(cls, question: str) -> "Chain":
        """What a question asks for. Raises ValueError where it is none of this task."""
        found = _QUESTION.search(question)
        if not found:
            raise ValueError(f"no question of the chains task: {question[:60]!r}")
        return cls(int(found[1]), tuple(BY_NAME[step.split(" ")[1]] for step in found[2].split(", ")))


def draw_chain(rng: random.Random) -> Chain:
    weights = [place**-0.5 for place in range(1, len(SKILLS) + 1)]
    return Chain(rng.randrange(RING), tuple(rng.choices(SKILLS, weights, k=rng.choice(LENGTHS))))


def solution(chain: Chain, rng: random.Random) -> str:
    """A solution as the supervised data has them."""
    value, text = chain.start, f"From {chain.start}: "
    for label, skill in zip(LABELS, chain.steps, strict=False):
        short = rng.random() < skill.share
        slip = rng.random() < (SLIP_BAD if short and skill.bad else SLIP)
        value = (skill.result(value) + slip) % RING
        text += f"{label} {skill.name}{SIGNS[short]}{value}. "
    return f"{text}The end is \\boxed{{{value}}}"


@dataclass(frozen=True)
class WrongStep:
    """The first step of a response that is not what the question asks for there."""

    number: int  # from 0; that of the question's steps where it is the end that is wrong
    begin: int  # characters of the response that are it
    end: int


def first_wrong_step(question: str, response: str) -> WrongStep | None:
    """None where every step follows from the one before it, all are there and the box holds the last result.

    A step is judged by the value that is written before it, not by the true one: after the first wrong step right ones may follow. A step
    that is left out, or another one in its place, is wrong where it should have stood. Raises ValueError as Chain.read.
    """
    chain, place = Chain.read(question), response.find(":") + 1
    value = chain.start
    for number, (label, skill) in enumerate(zip(LABELS, chain.steps, strict=False)):
        written = _STEP.match(response, place + 1)
        if not written or (written[1], written[2], int(written[3])) != (label, skill.name, skill.result(value)):
            return WrongStep(number, place, _end_of(response, place))
        value, place = int(written[3]), written.end()
    box = _END.match(response, place + 1)
    return None if box and int(box[1]) == value else WrongStep(len(chain.steps), place, len(response))


def _end_of(response: str, place: int) -> int:
    """Where what begins at `place` comes to its full stop."""
    stop = response.find(".", place)
    return stop + 1 if stop >= 0 else len(response)


def make_tokenizer():
    """The same for every seed."""
    rng = random.Random(0)
    chains = draw_distinct(rng, 2000, draw_chain)
    return tokenizer_of([f"user\n{chain.question}\nassistant\n{solution(chain, rng)}" for chain in chains])


def make_chains(out: Path, seed: int, train: int, heldout: int, sft: int) -> None:
    """Writes everything the module's docstring names under `out`, made if it is missing."""
    rng = random.Random(seed)
    chains = draw_distinct(rng, heldout + train + sft, draw_chain)
    rows = [
        {"question": chain.question, "gold_answer": str(chain.answer), "level": len(chain.steps)} for chain in chains[: heldout + train]
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "heldout.jsonl", rows[:heldout])
    write_lines(out / "train.jsonl", rows[heldout:])
    supervised = chains[heldout + train :]
    write_lines(out / "sft.jsonl", [{"question": chain.question, "response": solution(chain, rng)} for chain in supervised])
    write_base(out / "base", seed, make_tokenizer())


def main(argv: list[str] | None = None) -> None:
    write_as_asked(make_chains, __doc__.split("\n", 1)[0], heldout=1000, sft=24000, argv=argv)


if __name__ == "__main__":
    main()
