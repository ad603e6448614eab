"""Prompts out: questions as tokens, drawn in an order that can be resumed."""

import random
from collections.abc import Sequence

from megatron_oreal.data.questions import Question
from megatron_oreal.model.hf_files import check_folder
from megatron_oreal.trajectory import Prompt


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
