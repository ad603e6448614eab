"""Versions over disk that build on each other: the first has all weights, the next ones what changed since (rollout.sync=disk).

What a chain rests on is checked, never assumed: whose files these are, all of their bytes, and that a copy is at the link before. Whatever
does not fit fails the publication, and its next attempt begins a new chain. So does everything that begins a new connection to the engines:
the start of a run or its resumption, an engine that was lost, one that is back.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig

STATE = "link"
"""File of a copy that says which link of which chain it is at; not there while it is changed, so nothing is built upon a torn one."""


class File(msgspec.Struct, frozen=True):
    """What a reader must find."""

    size: int
    sha256: str | None = None  # of changes; whole weights are proven by the engines that load them


class Manifest(msgspec.Struct, frozen=True):
    """What one sender wrote of a version."""

    token: str
    link: int
    files: dict[str, File]


@dataclass(frozen=True)
class Chain:
    """Where its versions are written, and where copies of the newest one lie."""

    token: str  # no other chain has it
    folder: Path  # that all hosts share
    own: Path  # this host's copy
    senders: tuple[str, ...]
    copies: Mapping[int, Path] = field(default_factory=dict)  # from which engines load, by their numbers

    def version(self, number: int) -> Path:
        """The folder of a version: a new name in every chain, so no host has a stale listing of it."""
        return self.folder / f"version-{number:05d}-{self.token}"

    def manifest(self, version: int, sender: str) -> Path:
        """Of what this sender wrote."""
        return self.version(version) / f"{sender}.json"

    def at(self, link: int) -> str:
        """What STATE says."""
        return f"{self.token} {link}"

    def check(self, link: int) -> None:
        """Raises ServerError where this host's copy is not at this link."""
        state = self.own / STATE
        try:
            found = state.read_text()
        except OSError as error:
            raise ServerError(f"rollout.sync=disk: this host's copy of the weights is gone, or was left half changed: {error}") from error
        if found != self.at(link):
            raise ServerError(f"rollout.sync=disk: {state} says {found!r} instead of {self.at(link)!r}")


def copies_in(rollout: RolloutConfig) -> Path:
    """The folder of each host's own for its copy."""
    return Path(rollout.sync_copy or tempfile.gettempdir()).absolute()


def copies_of(run_dir: str, rollout: RolloutConfig) -> str:
    """Where a run's copies lie, but for what tells hosts apart: another attempt at the run finds what was left there, and removes it."""
    run = hashlib.sha256(str(Path(run_dir).resolve()).encode()).hexdigest()[:12]
    return str(copies_in(rollout) / f"megatron_oreal-{run}")


def copy_at(copies: str, host: str) -> Path:
    """Of one host: should the hosts share the folder after all, they are in nobody's way."""
    return Path(f"{copies}-{host}")
