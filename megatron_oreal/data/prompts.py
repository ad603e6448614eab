"""Questions in, prompts out: JSONL files read strictly, balanced by difficulty, drawn in an order that can be resumed."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.model.hf_files import check_folder
from megatron_oreal.trajectory import Prompt


@dataclass(frozen=True)
class Question:
    """One line of a data file."""

    id: str
    question: str
    gold_answer: str
    pass_rate: float | None = None


def read_questions(path: str | Path) -> list[Question]:
    """Questions of a JSONL file with question, gold_answer and optionally pass_rate and id.

    Raises:
        ValueError: file, line and field of the first malformed line, or that there is no line or no file.
    """
    questions: dict[str, Question] = {}
    for number, row in read_rows(path):
        question = _question(row, number, path)
        if question.id in questions:
            raise ValueError(f"{path}:{number}: field 'id': {question.id!r} stands there twice")
        questions[question.id] = question
    return list(questions.values())


def read_rows(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(line number, JSON object) of every line that is not blank; errors as in read_questions."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    empty = True
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            empty = False
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a JSON object is wanted, not {type(row).__name__}")
            yield number, row
    if empty:
        raise ValueError(f"{path}: no lines")


def text_field(row: dict, name: str, number: int, path: str | Path) -> str:
    """A field that must be a non-blank string."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}:{number}: field {name!r} must be a non-empty string, not {value!r:.80}")
    return value


def _question(row: dict, number: int, path: str | Path) -> Question:
    rate = row.get("pass_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        raise ValueError(f"{path}:{number}: field 'pass_rate' must be a number from 0 to 1, not {rate!r:.80}")
    return Question(
        id=str(row.get("id", number)),
        question=text_field(row, "question", number, path),
        gold_answer=text_field(row, "gold_answer", number, path),
        pass_rate=rate,
    )


def balance(questions: Sequence[Question], bands: Sequence[tuple[float, int]]) -> list[Question]:
    """Repeat each question by its pass rate (spec, Data); no bands or no pass rate: once; beyond the last band: dropped."""

    def repeats(question: Question) -> int:
        if not bands or question.pass_rate is None:
            return 1
        return next((times for end, times in bands if question.pass_rate < end), 0)

    return [q for q in questions for _ in range(repeats(q))]


class Template:
    """Questions as the tokens of a chat that waits for the assistant."""

    def __init__(self, tokenizer, system_prompt: str):
        self._tokenizer, self._system = tokenizer, system_prompt

    def tokens(self, question: str) -> list[int]:
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": question})
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self._tokenizer.encode(text, add_special_tokens=False)

    def prompt(self, question: Question, serial: str = "") -> Prompt:
        tokens = self.tokens(question.question)
        return Prompt(question.id + serial, question.question, question.gold_answer, tokens, question.pass_rate)


def fitting(prompts: Sequence[Prompt], longest: int) -> list[Prompt]:
    """The prompts that leave room for an answer in `longest` tokens in all."""
    return [p for p in prompts if len(p.token_ids) < longest]


class PromptSource:
    """Draws prompts epoch by epoch, each epoch in an order of its own that depends on the seed alone.

    Each draw gets an id of its own ("question#draw"), because balance repeats questions. `drawn` is all there is to save.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, drawn: int = 0):
        """Raises ValueError where nothing is left to draw."""
        if not prompts:
            raise ValueError("data.train: no question is left after the difficulty balance and the length limit")
        self._prompts, self._seed, self.drawn = list(prompts), seed, drawn
        self._epoch, self._order = -1, []

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Prompt:
        epoch, place = divmod(self.drawn, len(self._prompts))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._prompts)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        prompt = self._prompts[self._order[place]]
        drawn = Prompt(f"{prompt.id}#{self.drawn}", prompt.question, prompt.gold_answer, prompt.token_ids, prompt.pass_rate)
        self.drawn += 1
        return drawn


def load_tokenizer(path: str):
    """The tokenizer of a model folder, with a chat template.

    Raises:
        ValueError: no folder, no tokenizer, or no chat template in it.
    """
    from transformers import AutoTokenizer  # imported late: reading data must not cost seconds

    check_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path: no tokenizer in {path}: {' '.join(str(error).split())}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"model.path: the tokenizer in {path} has no chat template")
    return tokenizer


def stop_token(tokenizer, word: str) -> int:
    """Token id of the stop word; raises ValueError where it is not exactly one token."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"rollout.stop_word: {word!r} is {len(ids)} tokens for this tokenizer, it must be one")
    return ids[0]
