"""Who of the ranks hands over to which engine: everybody's place found out once, and the groups of those that hand over together."""

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron_oreal.engines.endpoint import Endpoint, is_on_this_host
from megatron_oreal.engines.routes import Guest, Seat, givers, replicas_at_work
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.sync.carry import tp_size
from megatron_oreal.sync.hand_over import Gift


class Seating:
    """This rank's part of a hand-over to the run's engines, whichever of them take part."""

    def __init__(self, engines: Sequence[Endpoint], config: RolloutConfig, ranks: Ranks):
        """Collective over all ranks; `engines`: all that there are.

        Raises:
            ValueError: an engine that is not ours is not on rank 0's host.
            ServerError: it does not answer.
        """
        self._rank, hosts = ranks.placement.rank, ranks.hosts()
        replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
        rows = ranks.rows(torch.tensor([[self._rank, hosts[1], replica]]))
        seats = [Seat(*row) for row in rows.tolist()]
        guests = {_key(engine): _guest(engine, config, hosts[0]) for engine in engines}
        self._givers = {key: givers(seats, guest) for key, guest in guests.items()}
        self.at_work = replica in replicas_at_work(seats, list(guests.values()))
        self._groups = {}
        # Twice the deadline of a call: who waits for a rank may wait for its call to another engine first.
        timeout = timedelta(seconds=2 * config.sync_timeout_s)
        for together in sorted({tuple(sorted(set(ranks_of))) for ranks_of in self._givers.values()}):
            self._groups[together] = dist.new_group(list(together), timeout=timeout, backend="gloo") if len(together) > 1 else None
        if ranks.conducts:
            for engine in engines:
                if engine.number is None and not is_on_this_host(engine.url, config.sync_timeout_s):
                    raise ValueError(
                        f"rollout.sync=tensor needs engines on the ranks' hosts, {engine.url} is not on rank 0's: use distributed"
                    )

    def gifts(self, engines: Sequence[Endpoint]) -> list[Gift]:
        """What this rank hands over to those of `engines` beside it; all ranks go through them in the same order."""
        found = []
        for engine in engines:
            ranks_of = self._givers[_key(engine)]
            places = [place for place, rank in enumerate(ranks_of) if rank == self._rank]
            if places:
                found.append(Gift(engine, places, len(ranks_of), self._groups[tuple(sorted(set(ranks_of)))]))
        return found


def _key(engine: Endpoint) -> int | str:
    """One of ours has another address after each restart."""
    return engine.url if engine.number is None else engine.number


def _guest(engine: Endpoint, config: RolloutConfig, hosts: int) -> Guest:
    if engine.number is None:
        return Guest(engine.url, 0, 0, tp_size(engine, config.sync_timeout_s))
    each = len(config.engines_of(0, hosts))
    host, place = divmod(engine.number, each)
    return Guest(f"engine {engine.number}", host, place * config.tp, config.tp)
