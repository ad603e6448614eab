"""Sampled answers with their verdicts: what `passrate answers=FILE` writes, a question a line, and `select` reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from megatron_oreal.errors import NotWritten
from megatron_oreal.trajectory import Group


@dataclass(frozen=True)
class Answer:
    """One response."""

    text: str  # without the stop token
    tokens: int  # the stop token included
    right: bool
    decided: bool  # False: nobody could tell
    reason: str  # as of a Verdict


@dataclass(frozen=True)
class Answers:
    """All responses to one question."""

    id: str
    question: str
    gold_answer: str
    pass_rate: float | None
    answers: list[Answer]


def answers_of(group: Group) -> list[Answer]:
    """Of a verified question."""
    pairs = zip(group.trajectories, group.verdicts, strict=True)
    return [Answer(t.text, len(t.token_ids), v.right, v.decided, v.reason) for t, v in pairs]


@contextmanager
def whole_file(name: str, path: Path) -> Iterator[BinaryIO]:
    """To be written in the block, whole or not at all.

    Raises:
        NotWritten: it cannot be; with the configuration's key `name` that leads to it.
    """
    written = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(written, "wb") as file:
            yield file
        written.rename(path)
    except OSError as error:
        raise NotWritten(f"{name}: {path} cannot be written ({type(error).__name__}: {error.strerror})") from error


def try_to_write(name: str, path: Path) -> None:
    """Without touching what may be there. Raises NotWritten as whole_file."""
    with whole_file(name, path.with_name(f".{path.name}.trial")):
        pass
    path.with_name(f".{path.name}.trial").unlink()


def read_answers(path: Path) -> Iterator[Answers]:
    """Question by question, none held longer than it is looked at. Raises ValueError with file, line and field of what is no such thing."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield msgspec.json.decode(line, type=Answers)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    written_by = "a file that `megatron-oreal passrate answers=FILE` wrote has them"
                    raise ValueError(f"{path}:{number}: no question with its answers ({error}); {written_by}") from error
    except OSError as error:
        raise ValueError(f"answers: {path} cannot be read ({type(error).__name__}: {error.strerror})") from error
