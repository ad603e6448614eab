"""Prompts out: questions as tokens, drawn in an order that can be resumed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from megatron_oreal.data.mixing import Turns
from megatron_oreal.trajectory import Prompt


def fitting(prompts: Sequence[Prompt], longest: int) -> list[Prompt]:
    """The prompts that leave room for an answer in `longest` tokens in all."""
    return [p for p in prompts if len(p.token_ids) < longest]


class PromptSource:
    """Draws prompts epoch by epoch, each epoch in an order of its own that depends on the seed alone.

    With weights each set has epochs of its own, and its turns as Turns says; without, all sets are one. Each draw gets an id of its own
    ("question#draw"), because balance repeats questions. `drawn` is all there is to save; a run that goes on with other weights or prompts
    draws from there as if it had had them from its beginning.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, drawn: int = 0, weights: Mapping[str, float] | None = None):
        """`weights`: of the prompts' origins. Raises ValueError where nothing is left to draw, of a set or at all."""
        names = list(weights or {})
        parts = [[p for p in prompts if p.origin == name] for name in names] or [list(prompts)]
        for name, part in zip(names or [""], parts, strict=True):
            if not part:
                where = f"data.sets.{name}" if name else "data.train"
                raise ValueError(f"{where}: no question is left after the difficulty balance and the length limit")
        self._names, self.drawn = names, drawn
        self._epochs = [Epochs(part, f"{seed}/{name}" if name else f"{seed}") for name, part in zip(names or [""], parts, strict=True)]
        self._turns = Turns(list((weights or {"": 1}).values()))

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        return [self._next() for _ in range(count)]

    def metrics(self) -> dict[str, float]:
        """How often each set has been gone through, where they have weights."""
        times = zip(self._names, self._epochs, self._turns.before(self.drawn), strict=False)
        return {f"data/{name}/epoch": turns / len(epochs) for name, epochs, turns in times}

    def _next(self) -> Prompt:
        turn, place = self._turns.at(self.drawn)
        prompt = self._epochs[turn].at(place)
        drawn = replace(prompt, id=f"{prompt.id}#{self.drawn}")
        self.drawn += 1
        return drawn


class Epochs:
    """The prompts of a set, over and over, in another order each time."""

    def __init__(self, prompts: Sequence[Prompt], seed: str):
        self._prompts, self._seed = prompts, seed
        self._epoch, self._order = -1, []

    def __len__(self) -> int:
        return len(self._prompts)

    def at(self, place: int) -> Prompt:
        """`place`: counted over all epochs."""
        epoch, within = divmod(place, len(self._prompts))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._prompts)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        return self._prompts[self._order[within]]
