"""Routes: which rank hands over to which rank of which engine. A pure function of where everybody sits; rollout.sync=tensor walks it.

An engine's TP rank sits on a GPU, and so does a rank: that GPU's rank hands over to it, so no process opens another GPU's memory. What a
rank hands over are whole tensors, which it has of its own replica: gathered over TP in its stage, carried to the others (sync/stages.py).
So a host's engines get everything from the host's own ranks, and what crosses the network is what the replica's other stages hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """Where a rank is."""

    rank: int
    host: int
    replica: int  # which of the data (and context) parallel copies of the model it belongs to
    stage: int = 0  # of the pipeline
    tp: int = 0  # its place among the ranks that split a stage's tensors


@dataclass(frozen=True)
class Guest:
    """An engine on the ranks' hosts."""

    name: str
    host: int
    first: int  # of its GPUs, counted on its host; engines there follow one another
    tp: int


def seats_of(world: int, per_host: int, tp: int, pp: int) -> list[Seat]:
    """As Megatron numbers ranks: TP first, then replicas, then pipeline stages."""
    replicas = world // (tp * pp)
    return [Seat(rank, rank // per_host, rank // tp % replicas, rank // tp // replicas, rank % tp) for rank in range(world)]


def givers(seats: Sequence[Seat], guest: Guest) -> list[int]:
    """The rank that hands over to the engine's TP rank 0, 1, ...

    The one on the same GPU, where every GPU has one; where there are fewer ranks than places they take turns (on CPUs).

    Raises:
        ValueError: no rank is on its host.
    """
    here = [seat.rank for seat in seats if seat.host == guest.host]
    if not here:
        raise ValueError(f"rollout.sync=tensor: no rank is on the host of {guest.name}")
    return [here[(guest.first + place) % len(here)] for place in range(guest.tp)]


def replicas_at_work(seats: Sequence[Seat], guests: Sequence[Guest]) -> set[int]:
    """The replicas that gather and carry: those with a rank that hands over, and the first, by which what arrives is proven."""
    giving = {rank for guest in guests for rank in givers(seats, guest)}
    return {0} | {seat.replica for seat in seats if seat.rank in giving}


@dataclass
class Traffic:
    """Bytes of one publication over a host's link to the others."""

    sent: int = 0
    received: int = 0

    @property
    def busier(self) -> int:
        """Of a link that carries both directions at once."""
        return max(self.sent, self.received)


def carried(seats: Sequence[Seat], stage_bytes: Sequence[int], at_work: set[int]) -> dict[int, Traffic]:
    """What crosses each host's link in one publication.

    sync/stages.py passes 1/tp of every stage from counterpart to counterpart round the ring of stages, to all but the one before it; the
    rest comes over TP, which is within a host where Megatron's own advice is followed.
    """
    by_place = {(seat.replica, seat.stage, seat.tp): seat for seat in seats}
    tp, stages = 1 + max(seat.tp for seat in seats), len(stage_bytes)
    links = {seat.host: Traffic() for seat in seats}
    for seat in seats:
        following = by_place[seat.replica, (seat.stage + 1) % stages, seat.tp]
        if seat.replica in at_work and following.host != seat.host:
            passed = (sum(stage_bytes) - stage_bytes[following.stage]) // tp
            links[seat.host].sent += passed
            links[following.host].received += passed
    return links
