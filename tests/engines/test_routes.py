"""Who hands over to whom, on machines that are not here: the GPUs of whole clusters, and the few ranks of a CPU."""

import pytest

from megatron_oreal.engines.routes import Guest, Seat, Traffic, carried, givers, replicas_at_work, seats_of


def guests(hosts: int, gpus: int, tp: int) -> list[Guest]:
    """As many engines as there is room for."""
    each = gpus // tp
    return [Guest(str(n), n // each, n % each * tp, tp) for n in range(hosts * each)]


LAYOUTS = [(4, 8, 4, 1, 4), (4, 8, 4, 1, 1), (16, 8, 8, 2, 8), (16, 8, 8, 4, 4), (16, 8, 4, 4, 8), (1, 8, 2, 2, 8), (2, 8, 16, 1, 2)]


@pytest.mark.parametrize(("hosts", "gpus", "tp", "pp", "engine_tp"), LAYOUTS)
def test_every_gpu_is_given_by_its_own_rank_and_every_replica_with_such_a_rank_is_at_work(hosts, gpus, tp, pp, engine_tp):
    seats, engines = seats_of(hosts * gpus, gpus, tp, pp), guests(hosts, gpus, engine_tp)
    given = [rank for engine in engines for rank in givers(seats, engine)]
    assert given == list(range(hosts * gpus))
    assert replicas_at_work(seats, engines) == {seat.replica for seat in seats}


def test_few_ranks_take_turns_and_replicas_without_an_engine_beside_them_rest():
    two = [Seat(0, 0, 0), Seat(1, 0, 1)]
    assert givers(two, Guest("a", 0, 0, 1)) == [0] and givers(two, Guest("b", 0, 1, 1)) == [1]
    assert givers(two, Guest("c", 0, 0, 4)) == [0, 1, 0, 1]
    assert replicas_at_work(two, [Guest("a", 0, 0, 1)]) == {0}
    assert replicas_at_work(two, [Guest("b", 0, 1, 1)]) == {0, 1}  # what arrives is proven by the first replica's
    with pytest.raises(ValueError, match="no rank is on the host of b"):
        givers(two, Guest("b", 1, 0, 1))


@pytest.mark.parametrize(
    ("hosts", "gpus", "tp", "pp", "share"),
    [
        (4, 8, 4, 1, 0),  # each host has the whole model, twice
        (16, 8, 8, 4, 3 / 4),  # a stage on each host: the other three, once
        (1, 8, 2, 4, 0),
        (2, 8, 4, 4, 3 / 4),  # two stages on each host: half comes once, and a quarter goes round the ring back to where it was
        (2, 8, 4, 2, 1),  # two replicas' first halves here, their second halves there: each carries its own
    ],
)
def test_bytes_that_cross_to_a_host(hosts, gpus, tp, pp, share):
    seats, model = seats_of(hosts * gpus, gpus, tp, pp), 1 << 20
    links = carried(seats, [model // pp] * pp, {seat.replica for seat in seats})
    assert links == {host: Traffic(sent=share * model, received=share * model) for host in range(hosts)}
    assert not any(link.busier for link in carried(seats, [model // pp] * pp, set()).values())
