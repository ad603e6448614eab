"""What the network adds to a publication: bytes that rollout.sync=tensor carries over each host's link, at the speed measured just now."""

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor.findings import OK, WARNING, Findings
from megatron_oreal.doctor.storage import sizes
from megatron_oreal.engines.routes import carried, seats_of

SLOW_S = 30.0
"""A publication that takes longer than this to cross the network is worth another layout."""


def check_carrying(findings: Findings, config: TrainConfig | SftConfig, hf, ranks: int | None, per_node: int, speed: float | None) -> None:
    """Of the policy's weights between pipeline stages on different hosts; of other ways nothing is said.

    Args:
        hf: the model's transformers config.
        ranks: of the job; None: unknown.
        speed: GB/s of payload between the slowest pair of hosts, through one network card; None: none was timed.
    """
    if ranks is None or speed is None or not config.has_engines or config.rollout.sync != "tensor":
        return
    layout, weights = config.parallel, sizes(config, hf)[1]
    seats = seats_of(ranks, min(per_node, ranks), layout.tp, layout.pp)
    links = carried(seats, [weights // layout.pp] * layout.pp, {seat.replica for seat in seats})
    busiest = max(link.busier for link in links.values())
    if not busiest:
        findings.add(OK, "new weights", "every host holds the whole model: no weights cross the network")
        return
    seconds = busiest / (speed * 1e9 * min(layout.tp, per_node))
    text = f"{busiest / 1e9:.3g} GB cross a host's link for every publication, {seconds:.2g} s at the {speed:.3f} GB/s of the slowest pair"
    slow = seconds > SLOW_S
    findings.add(WARNING if slow else OK, "new weights", text, "keep a replica's pipeline stages on one host: parallel.pp" if slow else "")
