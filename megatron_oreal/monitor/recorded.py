"""A step's trajectories with their verdicts as a file: `<run_dir>/trajectories/step-00007.jsonl`, a question a line."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from megatron_oreal.trajectory import Group

FOLDER = "trajectories"


def write_step(folder: Path, step: int, groups: Sequence[Group]) -> None:
    """Whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = file_of(folder, step)
    partial = path.with_suffix(".partial")
    partial.write_bytes(b"".join(msgspec.json.encode(group) + b"\n" for group in groups))
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
    return [_group(path, number, line) for number, line in enumerate(lines, 1)]


def _group(path: Path, number: int, line: bytes) -> Group:
    try:
        return msgspec.json.decode(line, type=Group)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error


def file_of(folder: Path, step: int) -> Path:
    """Where a step's trajectories are."""
    return folder / f"step-{step:05d}.jsonl"
