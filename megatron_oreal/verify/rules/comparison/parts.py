"""What is made of parts is compared part by part."""

from abc import ABC, abstractmethod

from megatron_oreal.verify.rules.values.budget import Budget, CannotDecide


class PartByPart(ABC):
    """Compares the parts of two trees, with one budget of work for all of them."""

    def __init__(self):
        self.budget = Budget()

    @abstractmethod
    def same(self, gold, answer) -> bool:
        """Whether two trees are the same answer; raises CannotDecide."""

    def surely_same(self, item, other) -> bool:
        try:
            return self.same(item, other)
        except CannotDecide:
            return False

    def pairwise(self, gold: tuple, answer: tuple) -> bool:
        return len(gold) == len(answer) and all(self.same(g, a) for g, a in zip(gold, answer, strict=True))

    def matched(self, items: list, others: list) -> bool:
        """Every item equals one of the others."""
        return all(self.found(item, others) for item in items)

    def found(self, item, others: list) -> bool:
        doubt = None
        for other in others:
            try:
                if self.same(item, other):
                    return True
            except CannotDecide as error:
                doubt = error
        if doubt is not None:
            raise doubt
        return False


def same_words(gold: str, answer: str) -> bool:
    """Without regard to case; words that differ may mean the same."""
    if gold.casefold() == answer.casefold():
        return True
    raise CannotDecide("different words")
