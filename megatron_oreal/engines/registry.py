"""The folder in which a run's engines are registered, and how rank 0 finds them, on whichever hosts they are.

`<run_dir>/engines/<number>.json`, readable by the run's user alone: each holds a key. What rank 0 says to the supervisors stands in
the same folder, see control.py.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from megatron_oreal.engines.endpoint import Endpoint


@dataclass(frozen=True)
class RegistryEntry:
    """What is known of an engine."""

    number: int
    start: int  # how often it was started before
    endpoint: Endpoint
    ready: bool = False  # it has answered once
    failed: str = ""  # why it will not come up
    copy: str = ""  # where its host keeps a copy of the weights for it, if not the ranks do


def registry_folder(run_dir: Path) -> Path:
    """Where a run's engines are registered."""
    return run_dir / "engines"


def register(folder: Path, entry: RegistryEntry) -> None:
    """Say what is known of an engine; in the place of what was said before."""
    write_privately(folder / f"{entry.number}.json", msgspec.json.encode(entry))


def read_registry(folder: Path) -> dict[int, RegistryEntry]:
    """The engines registered so far, by number. Raises OSError where the folder's file system is away."""
    entries = [msgspec.json.decode(path.read_bytes(), type=RegistryEntry) for path in folder.glob("[0-9]*.json")]
    return {entry.number: entry for entry in sorted(entries, key=lambda entry: entry.number)}


def write_privately(path: Path, content: bytes) -> None:
    """Whole or not at all; only its owner may read it."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.rename(path)
