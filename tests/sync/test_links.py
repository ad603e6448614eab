"""New weights between pipeline stages on several hosts, by the clock and by the bytes on each link."""

import json

import pytest

from megatron_oreal.engines.routes import carried, seats_of
from tests.hosts import Hosts, why_none

MBIT = 200
SIZES = [18_000_000, 16_000_000, 16_000_000, 17_600_000]
"""Bytes of the stages: the first and the last have a vocabulary too."""
pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(why_none()), reason=why_none())]


def test_four_stages_share_at_the_speed_of_their_links(tmp_path, record_property):
    links = carried(seats_of(world=4, per_host=1, tp=1, pp=4), SIZES, {0})
    with Hosts(4, mbit=MBIT) as hosts:
        common = {"WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "h1", "MASTER_PORT": "29500"}
        arguments = [str(tmp_path), "4", "2000000", ",".join(map(str, SIZES))]
        logs = [tmp_path / f"h{n}.log" for n in range(4)]
        ranks = [hosts.start_module(n + 1, "tests.sync.carry_rank", arguments, log, RANK=str(n), **common) for n, log in enumerate(logs)]
        statuses = [rank.wait(120) for rank in ranks]
    assert statuses == [0] * 4, [log.read_text() for log in logs]
    seen = [json.loads((tmp_path / f"rank{n}.json").read_text()) for n in range(4)]
    assert all(rank["right"] for rank in seen)
    for host, link in links.items():  # headers and acknowledgements come on top
        for way in ("sent", "received"):
            assert getattr(link, way) < seen[host][way] < 1.1 * getattr(link, way)
    must_take = max(link.busier for link in links.values()) / (MBIT * 1e6 / 8)
    took = min(map(max, zip(*(rank["seconds"] for rank in seen), strict=True)))
    record_property("seconds", f"{took:.2f} where the busiest link must carry {must_take:.2f}")
    assert took < 1.3 * must_take
