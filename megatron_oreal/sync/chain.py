"""Versions over disk that build on each other: the first has all weights, the next ones what changed since (rollout.sync=disk).

What a chain rests on is checked, never assumed: whose files these are, all of their bytes, and that a copy is at the link before. Whatever
does not fit fails the publication, and its next attempt begins a new chain. So does everything that begins a new connection to the engines:
the start of a run or its resumption, an engine that was lost, one that is back.
"""

import hashlib
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.learn.parallel import Ranks
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
    """Where its versions are written, and where each host's copy of the newest one lies."""

    token: str  # no other chain has it
    folder: Path  # that all hosts share
    root: Path  # of the copies: the host's number is put behind it, should the hosts share its folder after all
    host: int  # this rank's
    engines_a_host: int
    senders: tuple[str, ...]

    def version(self, number: int) -> Path:
        """The folder of a version: a new name in every chain, so no host has a stale listing of it."""
        return self.folder / f"version-{number:05d}-{self.token}"

    def manifest(self, version: int, sender: str) -> Path:
        """Of what this sender wrote."""
        return self.version(version) / f"{sender}.json"

    @property
    def own(self) -> Path:
        """This host's copy."""
        return self._of(self.host)

    def of(self, engine: Endpoint) -> Path:
        """The copy on the engine's host."""
        return self._of(engine.number // self.engines_a_host)

    def _of(self, host: int) -> Path:
        return self.root.with_name(f"{self.root.name}-{host}")

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


class Chains:
    """Begins a chain for each connection to the engines. Collective."""

    def __init__(self, config: TrainConfig | SftConfig, ranks: Ranks, senders: Sequence[str]):
        self._ranks, self._rollout, self._senders = ranks, config.rollout, tuple(senders)
        self._folder = Path(config.run_dir) / "sync"
        self._hosts, self._host = ranks.hosts()
        run = hashlib.sha256(str(Path(config.run_dir).resolve()).encode()).hexdigest()[:12]  # another attempt at it takes the same place
        self._root = Path(ranks.share(str(copies_in(self._rollout) / f"megatron_oreal-{run}"), str))

    def begin(self, engines: Sequence[Endpoint]) -> Chain | None:
        """None where engines run on hosts without ranks: nobody of ours could keep a copy there."""
        token = self._ranks.share(secrets.token_hex(4), str)
        if self._rollout.placement != "colocated" or any(engine.number is None for engine in engines):
            return None
        each = len(self._rollout.engines_of(0, self._hosts))
        return Chain(token, self._folder, self._root, self._host, each, self._senders)


def copies_in(rollout: RolloutConfig) -> Path:
    """The folder of each host's own for its copy."""
    return Path(rollout.sync_copy or tempfile.gettempdir()).absolute()
