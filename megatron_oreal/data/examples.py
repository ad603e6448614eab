"""What a supervised start is trained on: questions with a response each, as tokens, none longer than can be trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.config import SftConfig
from megatron_oreal.data.config import SftData
from megatron_oreal.data.fields import UNANSWERED, Fields, gold_answer_of, question_of, text_of
from megatron_oreal.data.files import files_of
from megatron_oreal.data.questions import Question, Remarks
from megatron_oreal.data.rows import Row, read_rows
from megatron_oreal.data.tokenizer import Template, stop_token
from megatron_oreal.model.config import sequence_multiple
from megatron_oreal.trajectory import Sample


@dataclass(frozen=True)
class Example:
    """A row of the set."""

    question: Question  # its id is the row's place; its gold answer is empty where nobody asked for it
    sample: Sample


@dataclass(frozen=True)
class Longest:
    """How long an example may be, prompt, response and stop token together."""

    positions: int  # that the model has
    budget: int  # learn.tokens_per_micro_batch
    multiple: int  # to which each example is padded

    def too_long(self, tokens: int) -> str:
        """Why it cannot be trained on; empty where it can."""
        if tokens > self.positions:
            return f"more than the model's {self.positions} positions (max_position_embeddings)"
        padded = tokens + -tokens % self.multiple
        return f"more than learn.tokens_per_micro_batch={self.budget} holds, which may be raised" if padded > self.budget else ""


def reader_of(config: SftConfig, tokenizer, positions: int) -> "Reader":
    """Of a supervised start's rows; `positions`: of its model. Raises ValueError where the stop word is not one token."""
    longest = Longest(positions, config.learn.tokens_per_micro_batch, sequence_multiple(config.parallel.cp))
    return Reader(config.data, tokenizer, stop_token(tokenizer, config.rollout.stop_word), longest)


class Reader:
    """Reads rows with a model's tokenizer."""

    def __init__(self, data: SftData, tokenizer, stop: int, longest: Longest):
        """`stop`: the token that ends every response."""
        self._data, self._fields = data, Fields.named(data.fields)
        self._template, self._stop = Template(tokenizer, data.system_prompt), stop
        self._longest = longest

    def read(self, with_answers: bool) -> tuple[list[Example], list[str]]:
        """All examples, and what was read otherwise than it stands there, a line each.

        Args:
            with_answers: questions must have answers, and those that the set says have none are left out.

        Raises:
            ValueError: file, line (or row) and field of the first row that is wrong, or that is too long; or as Template.check.
        """
        examples, remarks, too_long = [], Remarks(), []
        for path in files_of(Path(self._data.train), None, "train"):
            for row in read_rows(path, self._fields.columns):
                example = self._example(row, with_answers, remarks)
                if example is None:
                    continue
                examples.append(example)
                if self._longest.too_long(example.sample.length):
                    too_long.append(example.sample)
        if too_long:
            raise ValueError(self._line(too_long))
        self._template.check([example.question.question for example in examples])
        return examples, [f"data: {line}" for line in remarks.lines()]

    def _example(self, row: Row, with_answers: bool, remarks: Remarks) -> Example | None:
        text, found = question_of(row, self._fields)
        response = text_of(row, *self._fields.need(row, "response"))
        gold = gold_answer_of(row, self._fields) if with_answers else ""
        for remark in found if gold is not None else [UNANSWERED]:
            remarks.add(remark, row.place)
        if gold is None:
            return None
        tokens = [*self._template.encode(response), self._stop]
        return Example(Question(row.place, text, gold), supervised(self._template.tokens(text), tokens, row.place))

    def _line(self, too_long: Sequence[Sample]) -> str:
        first, most = too_long[0], max(sample.length for sample in too_long)
        field = "question" if self._longest.too_long(len(first.prompt_ids)) else "response"
        more = f"; {len(too_long)} rows are too long, the longest has {most}" if len(too_long) > 1 else ""
        return (
            f"{first.prompt_id}: field {field!r}: {first.length} tokens with question and stop word, {self._longest.too_long(first.length)}"
            f"{more}; leave such rows out, as `megatron-oreal select longest=N` does"
        )


def supervised(prompt_ids: list[int], response_ids: list[int], name: str = "") -> Sample:
    """A supervised example in the form the batches take."""
    return Sample(name, prompt_ids, response_ids, reward=1, advantage=0.0, pass_rate=1.0, version=0)


def without(examples: Sequence[Example], questions: Iterable[Question]) -> list[Example]:
    """Those of these questions alone."""
    kept = {question.id for question in questions}
    return [example for example in examples if example.question.id in kept]
