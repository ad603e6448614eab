"""What a run has saved: its whole checkpoints, and which of them a start goes on from.

Whoever starts ranks asks this first, so it loads nothing heavy.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec

STATE = "state.json"
"""Written last: a folder that has it is a whole checkpoint."""


@dataclass(frozen=True)
class _Step:
    """As much of a state as tells checkpoints apart."""

    step: int


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def step_of(checkpoint: Path | None) -> int:
    """After which step it was saved; 0 where there is none. Raises ValueError where it does not say."""
    if checkpoint is None:
        return 0
    try:
        return msgspec.json.decode((checkpoint / STATE).read_bytes(), type=_Step).step
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"resume: {checkpoint / STATE}: {error}") from error


def find_checkpoint(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint that `resume` names: None nothing, "auto" the newest in `folder` (or nothing), else a folder.

    Raises:
        ValueError: the folder named is no whole checkpoint; or a new run would overwrite the checkpoints in `folder`.
    """
    existing = list_checkpoints(folder)
    if resume is None:
        if existing:
            raise ValueError(f"run_dir: {folder.parent} holds a run that came to {existing[-1].name}; resume=auto, or take another run_dir")
        return None
    if resume == "auto":
        return next(reversed(existing), None)
    if not (Path(resume) / STATE).is_file():
        raise ValueError(f"resume: {resume} is no whole checkpoint ({STATE} is missing)")
    return Path(resume)
