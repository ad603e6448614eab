"""What came of asking: verdicts, lengths and final answers, without the text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from megatron_oreal.trajectory import Group

Way = Literal["greedy", "sampled"]
Key = tuple[str, str, Way]
"""Set, question id, how it was asked."""


@dataclass(frozen=True)
class Answer:
    """One response to a question."""

    right: bool
    decided: bool  # False: nobody could tell; it counts as not right, whatever verify.undecided says
    complete: bool  # False: cut at the length limit, or ended by another token than the stop word's
    tokens: int
    final: str | None  # the answer that was compared (verify.extract); None where there is none, or the response is not complete

    @property
    def votes(self) -> bool:
        """Whether it has a say in the majority."""
        return self.decided and self.final is not None


@dataclass(frozen=True)
class Answered:
    """All responses to one question asked in one way."""

    set: str
    id: str
    way: Way
    answers: list[Answer]

    @property
    def key(self) -> Key:
        return self.set, self.id, self.way


Answers = Mapping[Key, Answered]


def answered(set_name: str, question_id: str, way: Way, group: Group, final_answer: Callable[[str], str | None]) -> Answered:
    """What is kept of a verified group; `final_answer` is the verifier's."""
    pairs = zip(group.trajectories, group.verdicts, strict=True)
    of_each = [Answer(v.right, v.decided, t.complete, len(t.token_ids), final_answer(t.text) if t.complete else None) for t, v in pairs]
    return Answered(set_name, question_id, way, of_each)
