"""Rejection sampling: of all sampled answers those that are right, a few a question, as rows of a supervised set."""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from megatron_oreal.config import SelectConfig
from megatron_oreal.passrate.answers import Answer, read_answers, whole_file


@dataclass(frozen=True)
class Candidate:
    """A right answer that may be chosen, by its place: its text stays in the file."""

    line: int  # of its question in the file, from 0
    place: int  # among the answers there
    tokens: int
    digest: bytes  # of the text


Question = bytes
"""A question's digest: the same question is one question wherever it stands."""


class Selection:
    """What was chosen of a file, and why the rest was not."""

    def __init__(self, config: SelectConfig):
        """Read the file once. Raises ValueError as read_answers, or where no answer can be taken."""
        self._config, self._path = config, Path(config.answers)
        self.counts: Counter[str] = Counter()  # why answers were left out -> how many
        self._candidates: dict[Question, dict[bytes, Candidate]] = {}
        for line, asked in enumerate(read_answers(self._path)):
            known = self._candidates.setdefault(_digest(asked.question), {})
            for place, answer in enumerate(asked.answers):
                self._consider(known, Candidate(line, place, answer.tokens, _digest(answer.text)), answer)
        chosen = [one for question, found in self._candidates.items() for one in self._choose(question, list(found.values()))]
        self.chosen = {(one.line, one.place) for one in chosen}
        if not self.chosen:
            raise ValueError(f"answers: {self._path}: nothing to train on in {self.questions} questions ({self.left_out()})")

    @property
    def questions(self) -> int:
        """Different ones."""
        return len(self._candidates)

    @property
    def without(self) -> int:
        """Questions of which no answer was chosen."""
        return sum(not found for found in self._candidates.values())

    def left_out(self) -> str:
        """Of the answers, in words."""
        return ", ".join(f"{count:,} {why}" for why, count in self.counts.items() if count) or "no answers at all"

    def rows(self) -> Iterator[dict[str, object]]:
        """Of the supervised set, in the order of the file."""
        for line, asked in enumerate(read_answers(self._path)):
            for place, answer in enumerate(asked.answers):
                if (line, place) in self.chosen:
                    row = {"question": asked.question, "response": answer.text, "gold_answer": asked.gold_answer}
                    yield row | {"question_id": asked.id, "pass_rate": asked.pass_rate}

    def _consider(self, known: dict[bytes, Candidate], candidate: Candidate, answer: Answer) -> None:
        longest = self._config.longest
        if not answer.decided:
            self.counts["undecided"] += 1
        elif not answer.right:
            self.counts["wrong"] += 1
        elif longest is not None and answer.tokens > longest:
            self.counts[f"of more than longest={longest} tokens"] += 1
        elif candidate.digest in known:
            self.counts["the same as another"] += 1
        else:
            known[candidate.digest] = candidate

    def _choose(self, question: Question, found: Sequence[Candidate]) -> list[Candidate]:
        """At most per_question of them; the order in the file does not matter."""
        most = self._config.per_question
        self.counts[f"beyond per_question={most}"] += max(len(found) - most, 0)
        return sorted(found, key=self._rank(question))[:most]

    def _rank(self, question: Question) -> Callable[[Candidate], tuple]:
        if self._config.by == "random":
            return lambda one: (random.Random(f"{self._config.seed}/{(question + one.digest).hex()}").random(),)
        aim = self._config.length if self._config.by == "nearest" else 0
        return lambda one: (abs(one.tokens - aim), one.digest)


def _digest(text: str) -> bytes:
    """Space around a text makes no other text."""
    return hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16).digest()


def select(config: SelectConfig) -> list[str]:
    """Choose and write config.out, whole or not at all; what is to be said of it, a line each. Raises NotWritten, or as Selection."""
    selection, out = Selection(config), Path(config.out)
    with whole_file("out", out) as file:
        for row in selection.rows():
            file.write(msgspec.json.encode(row) + b"\n")
    asked, without = selection.questions, selection.without
    return [
        f"wrote {config.out}: {len(selection.chosen):,} responses to {asked - without:,} of {asked:,} questions",
        f"left out: {without:,} questions, none of whose answers can be taken; of the answers {selection.left_out()}",
    ]
