"""All hosts' copies of the weights (rollout.sync=disk): a chain for each connection to the engines, and the order to follow it."""

import secrets
from collections.abc import Sequence
from pathlib import Path

import torch

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.sync.chain import Chain, copies_of, copy_at
from megatron_oreal.sync.follower import Order, order, wait_for
from megatron_oreal.sync.host_copy import HostCopy


class Copies:
    """On every rank; the first one of a host keeps the host's copy, where engines load from it or senders compare with it.

    Engines on hosts without ranks load from what `megatron-oreal serve` keeps there (Follower).
    """

    def __init__(self, config: TrainConfig | SftConfig, ranks: Ranks, engines: Engines | None, senders: Sequence[str]):
        """Collective. `engines`: on rank 0. `senders`: names of all that there are."""
        self._rollout, self._ranks, self._engines, self._senders = config.rollout, ranks, engines, tuple(senders)
        self._folder, self._model, self._colocated = Path(config.run_dir), Path(config.model.path), config.rollout.placement == "colocated"
        self._root = ranks.share(copies_of(config.run_dir, self._rollout), str)
        self._hosts, self._host = ranks.hosts()
        sending = ranks.rows(torch.tensor([[self._host, int(ranks.is_sender)]]))
        wanted = self._colocated or bool(sending[sending[:, 0] == self._host, 1].any())
        self._keeps = wanted and ranks.placement.local_rank == 0
        self._chain: Chain | None = None
        self._copy: HostCopy | None = None

    def begin(self, engines: Sequence[Endpoint]) -> Chain | None:
        """A new chain to these engines; None where nobody of ours keeps a copy for one of them. Collective."""
        self.end()
        token, places = self._ranks.share((secrets.token_hex(4), self._places(engines)), tuple[str, dict[int, str]])
        if len(places) == len(engines):
            own = copy_at(self._root, str(self._host))
            copies = {number: Path(path) for number, path in places.items()}
            self._chain = Chain(token, self._folder / "sync", own, self._senders, copies)
            self._copy = HostCopy(self._chain, self._model) if self._keeps else None
        return self._chain

    def _places(self, engines: Sequence[Endpoint]) -> dict[int, str]:
        """Where engines find their copies: rank 0 knows."""
        if not self._engines:
            return {}
        numbers = [engine.number for engine in engines if engine.number is not None]
        if not self._colocated:
            return {number: path for number, path in self._engines.copies.items() if number in numbers}
        each = len(self._rollout.engines_of(0, self._hosts))
        return {number: str(copy_at(self._root, str(number // each))) for number in numbers}

    def follow(self, version: int, link: int) -> None:
        """All copies come to what the senders have written of this version. Not collective.

        Raises:
            ServerError: one that this rank answers for does not.
        """
        if not self._chain:
            return
        asks = self._ranks.conducts and not self._colocated
        wanted = Order(self._chain.token, link, version, self._senders)
        if asks:
            order(self._folder, wanted)
        if self._copy:
            self._copy.follow(version)
        if asks:
            wait_for(self._folder, wanted, self._chain.copies, self._rollout.sync_timeout_s)

    def end(self) -> None:
        """The chain ends; this host's room is given back."""
        copy, self._copy, self._chain = self._copy, None, None
        if copy:
            copy.remove()
