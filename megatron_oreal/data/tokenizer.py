"""Text in, tokens out: the tokenizer of a model folder exactly as its tokenizer.json says, and questions as chats."""

from collections.abc import Sequence
from pathlib import Path

from megatron_oreal.data.questions import Question
from megatron_oreal.model.hf_files import check_folder
from megatron_oreal.model.shape import read_shape
from megatron_oreal.trajectory import Prompt

FILE = "tokenizer.json"
SAMPLE = 64
"""Questions on whose text a tokenizer is compared with its file."""
TRIAL = "What is 1 + 1?"
SHOWN = 60
"""Characters of a text in an error."""


class Template:
    """Questions as the tokens of a chat that waits for the assistant."""

    def __init__(self, tokenizer, system_prompt: str):
        """Raises ValueError where the chat template fails, refuses a system message, or leaves it or the question out."""
        self._tokenizer, self._system, self._folder = tokenizer, system_prompt, tokenizer.name_or_path
        self._rows = read_shape(self._folder).vocab_size
        self._try_out()

    def text(self, question: str) -> str:
        """The chat as the chat template writes it."""
        return self._rendered(question, self._system)

    def tokens(self, question: str) -> list[int]:
        """Those of the chat. Raises ValueError as `encode`."""
        return self.encode(self.text(question))

    def encode(self, text: str) -> list[int]:
        """Its tokens, none added. Raises ValueError where the model has no row for one."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        check_rows(self._tokenizer, ids, self._rows)
        return ids

    def prompt(self, question: Question, serial: str = "") -> Prompt:
        """Raises ValueError as `encode`."""
        tokens = self.tokens(question.question)
        return Prompt(question.id + serial, question.question, question.gold_answer, tokens, question.pass_rate, question.origin)

    def check(self, questions: Sequence[str]) -> None:
        """Raises ValueError where the tokenizer does not do with the chats of some of them what its tokenizer.json says."""
        some = questions[:: max(len(questions) // SAMPLE, 1)][:SAMPLE]
        check_against_file(self._tokenizer, [self.text(question) for question in some])

    def _rendered(self, question: str, system: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def _try_out(self) -> None:
        where, advice = f"model.path: the chat template of {self._folder}", "set the system prompt to '', or take another template"
        if why := self._fails(""):
            raise ValueError(f"{where} {why}")
        if why := self._fails(self._system):
            raise ValueError(f"{where} takes no system message: it {why}; {advice}")
        if self._system.strip() not in self.text(TRIAL):
            raise ValueError(f"{where} leaves the system message out; {advice}")

    def _fails(self, system: str) -> str:
        """Why a trial question cannot be asked; empty where it can."""
        try:
            return "" if TRIAL in self._rendered(TRIAL, system) else "leaves the question out"
        except Exception as error:  # templates are programs, with any error of Jinja, and of Python
            return f"fails: {_in_a_line(error)}"


def load_tokenizer(path: str):
    """The tokenizer of a model folder, with a chat template.

    Where there is a tokenizer.json it alone says what text becomes: transformers 5 builds a Llama or Qwen2 tokenizer (by the class that
    tokenizer_config.json names, or by the model's type) with that class' own idea of spaces, and takes the vocabulary alone from the file.

    Raises:
        ValueError: no folder, no tokenizer, none that text goes through, or no chat template in it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # imported late: reading data must not cost seconds

    kind = PreTrainedTokenizerFast if (check_folder(path) / FILE).is_file() else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(path, clean_up_tokenization_spaces=False)
    except Exception as error:  # of a damaged tokenizer.json `tokenizers` raises plain Exceptions
        raise ValueError(f"model.path: no tokenizer in {path}: {_in_a_line(error)}") from error
    came = tokenizer.decode(tokenizer.encode(TRIAL, add_special_tokens=False))
    if came.split() != TRIAL.split():  # without vocabulary files transformers 5 makes an empty tokenizer, and says nothing
        missing = "" if (Path(path) / FILE).is_file() else f"; there is no {FILE}"
        raise ValueError(f"model.path: the tokenizer in {path} makes {came[:SHOWN]!r} of {TRIAL!r}{missing}")
    if not tokenizer.chat_template:
        raise ValueError(f"model.path: the tokenizer in {path} has no chat template")
    return tokenizer


def stop_token(tokenizer, word: str, key: str = "rollout.stop_word") -> int:
    """Token id of the stop word; raises ValueError where it is not exactly one token, or the model has no row for it."""
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"{key}: {word!r} is {len(ids)} tokens for this tokenizer, it must be one")
    check_rows(tokenizer, ids, read_shape(tokenizer.name_or_path).vocab_size)
    return ids[0]


def check_rows(tokenizer, ids: Sequence[int], rows: int) -> None:
    """Raises ValueError where one of the tokens is beyond the rows of the model's embedding."""
    if (token := max(ids, default=0)) >= rows:
        word = tokenizer.convert_ids_to_tokens(token)
        raise ValueError(f"model.path: the tokenizer of {tokenizer.name_or_path} has a token {token} ({word!r}), the model has {rows} rows")


def check_against_file(tokenizer, texts: Sequence[str]) -> None:
    """Whether a tokenizer encodes and decodes these texts as its folder's tokenizer.json does, read by the `tokenizers` library itself.

    Raises:
        ValueError: it does not, with the first text.
    """
    from tokenizers import Tokenizer

    file = Path(tokenizer.name_or_path) / FILE
    if not file.is_file():
        return
    own = Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    added = tokenizer.added_tokens_decoder.values()  # tokenizer_config.json may have tokens of its own
    own.add_tokens([token for token in added if own.token_to_id(token.content) is None])
    kind = type(tokenizer).__name__
    for text in texts:
        ids, expected = tokenizer.encode(text, add_special_tokens=False), own.encode(text, add_special_tokens=False).ids
        if ids != expected:
            raise ValueError(f"model.path: {kind} makes other tokens of {_short(text)} ({len(ids)}) than {file} says ({len(expected)})")
        for skip in (False, True):
            said, meant = tokenizer.decode(ids, skip_special_tokens=skip), own.decode(ids, skip_special_tokens=skip)
            if said != meant:
                raise ValueError(f"model.path: {kind} decodes {_short(said)} where {file} says {_short(meant)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
