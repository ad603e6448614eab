"""A step's trajectories with their verdicts as a file: `<run_dir>/trajectories/step-00007.jsonl`, a question a line.

Beside it, once the step is trained, the token-RM weights of those it was trained on: `weights-00007.jsonl`, a trajectory a line. Whoever
knows of a task where responses go wrong may add `marks-00007.jsonl`, for the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from megatron_oreal.monitor.pieces import Pieces
from megatron_oreal.trajectory import Group, Sample

T = TypeVar("T")

FOLDER = "trajectories"
DIGITS = 5
"""Of a weight after the point."""


@dataclass(frozen=True)
class Weighted:
    """A trajectory that a step was trained on, with the weight that the token RM gave each token in its loss."""

    prompt_id: str
    index: int  # which of the K samples of its question
    pieces: list[str]  # [response tokens], end to end the response; what its tokens stand for
    weights: list[float]  # [response tokens], in [0, 1]: of Eq. 10, for the right or for the wrong, as the trajectory is


@dataclass(frozen=True)
class Marked:
    """Where a response first goes wrong, by somebody who knows the task; nothing is trained on it."""

    prompt_id: str
    index: int  # which of the K samples of its question
    begin: int  # characters of its text
    end: int


def write_step(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """Whole or not at all. What an earlier run left beside this step goes."""
    for left in (weights_file, marks_file):
        left(folder, step).unlink(missing_ok=True)
    _write(file_of(folder, step), groups)


def write_weights(folder: Path, step: int, samples: Sequence[Sample], weights: Sequence[Sequence[float]], tokenizer) -> None:
    """The weights ([samples][response tokens]) of the trajectories that the step was trained on. Whole or not at all."""
    pieces = Pieces(tokenizer)
    rounded = ([round(w, DIGITS) for w in of_sample] for of_sample in weights)
    _write(
        weights_file(folder, step),
        [Weighted(s.prompt_id, s.index, pieces.of(s.response_ids), w) for s, w in zip(samples, rounded, strict=True)],
    )


def write_marks(folder: Path, step: int, rows: Sequence[Marked]) -> None:
    """Whole or not at all."""
    _write(marks_file(folder, step), rows)


def _write(path: Path, rows: Sequence[Group | Weighted | Marked]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    partial.rename(path)


def read_step(folder: Path, step: int) -> list[Group]:
    """The groups of a step.

    Raises:
        ValueError: no such file, or a line that is no group; with file, line and field.
    """
    path = file_of(folder, step)
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"recorded={folder}: no trajectories of step {step} ({path.name})") from error
    return [_decoded(path, number, line, Group) for number, line in enumerate(lines, 1)]


def read_weights(folder: Path, step: int) -> list[Weighted]:
    """What a step was trained on, with its token weights; nothing where there is no such file. Raises ValueError as read_step."""
    path = weights_file(folder, step)
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [_decoded(path, number, line, Weighted) for number, line in enumerate(lines, 1)]


def _decoded(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def file_of(folder: Path, step: int) -> Path:
    """Where a step's trajectories are."""
    return folder / f"step-{step:05d}.jsonl"


def weights_file(folder: Path, step: int) -> Path:
    """Where the weights of a step's trained trajectories are; not there where it had no token RM or nothing to train on."""
    return folder / f"weights-{step:05d}.jsonl"


def marks_file(folder: Path, step: int) -> Path:
    """Where is written which characters of a step's responses are wrong; there where somebody has said it."""
    return folder / f"marks-{step:05d}.jsonl"
