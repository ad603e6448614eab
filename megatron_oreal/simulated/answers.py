"""What simulated engines answer: so long, right or wrong, always the same for a question's sample, and recognised when it goes on.

    <mark> <number> filler ... \\boxed{12} <stop>

The number says which of the question's samples it is. An engine that is asked to go on finds both behind the prompt, and so knows how
long that sample is to be and how it ends, whichever engine began it.
"""

import math
import random
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

HEAD = 2
"""Tokens before the filler: mark and number."""
FILLER = "so 7 + 5 = 12 and then 12 - 3 = 9.\n"
LONGEST = 1 << 15
"""Tokens of an answer."""
EASY, HARD = 0.85, 0.15
"""Shares of right answers to questions that have both kinds: drawn evenly between these."""


@dataclass(frozen=True)
class Asked:
    """What a request's tokens say."""

    prompt: int  # its tokens
    name: int  # a hash of them
    number: int | None  # of the sample that goes on; None: a new one
    begun: int  # tokens of it that are there


@dataclass(frozen=True)
class Answer:
    """A sample from its first token to its last."""

    number: int
    length: int  # tokens, the stop token included
    ending: list[int]  # its last tokens


class Answers:
    """Of all engines of a process. Lengths are lognormal and independent, also those of one question's samples."""

    def __init__(self, tokenizer, stop: int, median: float, spread: float, mixed: float, seed: int):
        """`median`, `spread`, `mixed`: as in conf/plan."""
        self._tokenizer, self.stop, self._mark = tokenizer, stop, tokenizer.pad_token_id
        self._median, self._spread, self._mixed, self._seed = median, spread, mixed, seed
        if self._mark in (None, stop):
            raise ValueError("simulated engines: the tokenizer needs a padding token that ends no answer")
        self._numbers = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
        filler, dice = tokenizer.encode(FILLER), random.Random(seed)
        self._filler = (filler * -(-LONGEST // len(filler)))[:LONGEST]
        self._logprobs = [-dice.expovariate(2.0) for _ in range(LONGEST)]
        self._begun: Counter[int] = Counter()

    def asked(self, input_ids: Sequence[int]) -> Asked:
        """Prompt and, where the request goes on with one, sample."""
        at = len(input_ids) - 1 - input_ids[::-1].index(self._mark) if self._mark in input_ids else len(input_ids)
        begun = len(input_ids) - at
        number = self._numbers.index(input_ids[at + 1]) if begun >= HEAD else None
        return Asked(at, name_of(input_ids[:at]), number, begun)

    def begin(self, asked: Asked) -> Answer:
        """The sample that goes on, or the question's next one."""
        number = asked.number
        if number is None:
            number = self._begun[asked.name] % len(self._numbers)
            self._begun[asked.name] += 1
        dice = random.Random(f"{self._seed}/{asked.name}/{number}")
        right = dice.random() < self._right(asked.name)
        gold = gold_of(asked.name)
        ending = [*self._tokenizer.encode(f"\\boxed{{{gold if right else gold + 1}}}"), self.stop]
        length = round(self._median * math.exp(self._spread * dice.gauss(0.0, 1.0)))
        return Answer(number, min(max(length, HEAD + len(ending)), LONGEST), ending)

    def _right(self, name: int) -> float:
        """Share of right answers to a question."""
        dice = random.Random(f"{self._seed}/{name}")
        return HARD + dice.random() * (EASY - HARD) if dice.random() < self._mixed else float(dice.random() < 0.5)

    def whole(self, answer: Answer, first: int, last: int) -> int:
        """Where an answer may be cut: `last`, or before a head or an ending that would not be recognised."""
        before = answer.length - len(answer.ending)
        return last if last in (first, answer.length) else 0 if last < HEAD else min(last, max(first, before))

    def tokens(self, answer: Answer, first: int, last: int) -> list[int]:
        """Those from `first` to before `last`."""
        filled = answer.length - len(answer.ending)
        head = [self._mark, self._numbers[answer.number]]
        body = self._filler[max(HEAD, first) : min(last, filled)]
        return head[first:last] + body + answer.ending[max(0, first - filled) : max(0, last - filled)]

    def logprobs(self, first: int, last: int) -> list[float]:
        """Of those tokens."""
        return self._logprobs[first:last]


def name_of(prompt: Sequence[int]) -> int:
    """A question, by its tokens."""
    return zlib.crc32(array("I", prompt).tobytes())


def gold_of(name: int) -> int:
    """The right answer to a question."""
    return 10 + name % 89
