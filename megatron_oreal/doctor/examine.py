"""The whole examination: this node's part, and with the others what takes several."""

import os
import secrets
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor import inputs, limits, links, memory, new_weights, services, software, storage
from megatron_oreal.doctor.findings import ERROR, LEFT_OUT, Finding, Findings, report
from megatron_oreal.doctor.network import Absent, Meeting, differing
from megatron_oreal.plan.config import Planned


@dataclass(frozen=True)
class Place:
    """This process, the only one of its node, among the job's nodes."""

    index: int
    nodes: list[str]  # names, in the order of the processes

    @classmethod
    def detect(cls, nodes: list[str] | None = None) -> "Place":
        """From srun's variables (one task a node); without them alone.

        Args:
            nodes: their names, where known.
        """
        count = int(os.environ.get("SLURM_NTASKS", 1))
        if count == 1 or "SLURM_PROCID" not in os.environ:  # a shell of salloc is no task
            return cls(0, [socket.gethostname()])
        nodes = nodes if nodes and len(nodes) == count else [f"node {i}" for i in range(count)]
        return cls(int(os.environ["SLURM_PROCID"]), nodes)


@dataclass(frozen=True)
class Wishes:
    """What is asked of the machines, and not of the run."""

    ranks: int | None  # of the job; None: unknown
    ranks_per_node: int
    slowest_allreduce: float | None  # GB/s; None: by the back end
    slowest_disk: float  # MB/s


def examine(config: TrainConfig | SftConfig, wishes: Wishes, place: Place) -> int:
    """Look at everything; the first node prints one line each. The exit status: 1 where there is an error."""
    findings = Findings()
    meeting = _meet(findings, place)
    software.check_software(findings)
    software.check_gpus(findings, wishes.ranks_per_node, config.model.dtype)
    links.check_links(findings, wishes.ranks_per_node)
    limits.check_limits(findings, config)
    model = _first_node_alone(findings, config, wishes, len(place.nodes)) if place.index == 0 else None
    try:
        if meeting and meeting.index and not isinstance(config, Planned):
            inputs.check_model_is_seen(findings, config.model.path)
        _check_storage(findings, config, wishes, meeting, model)
        if meeting:
            slowest = meeting.check_pairs(findings, wishes.slowest_allreduce)
            if model:
                new_weights.check_carrying(findings, config, model, wishes.ranks, wishes.ranks_per_node, slowest)
            return _together(findings, meeting, place.nodes)
    except Absent as error:
        findings.add(ERROR, "nodes", str(error), "look at that node, and at its lines above if it left some")
    return _print([place.nodes[place.index]], [findings.all])


def _first_node_alone(findings: Findings, config: TrainConfig | SftConfig, wishes: Wishes, nodes: int):
    """What one node finds out for all; the transformers config of the model, None where it cannot be used, or is not read."""
    is_bench = isinstance(config, Planned)  # which has random weights, and asks nobody
    model = inputs.check_compute(findings, config) if is_bench else inputs.check_inputs(findings, config)
    inputs.check_layout(findings, config, wishes.ranks, wishes.ranks_per_node, nodes)
    if is_bench:
        return None
    if model:
        memory.check_memory(findings, config, wishes.ranks, wishes.ranks_per_node)
    services.check_proxies(findings, config)
    services.check_judge(findings, config)
    services.check_engines(findings, config)
    return model


def _meet(findings: Findings, place: Place) -> Meeting | None:
    """The meeting of all nodes; None where this one is alone, or the others are not reached, which is an error."""
    port_is_free = services.check_port(findings) if place.index == 0 else True
    if len(place.nodes) == 1:
        findings.add(LEFT_OUT, "nodes", "this one is alone: no all-reduce, no shared files, no versions compared", "srun -N2 or more")
        return None
    if not port_is_free:
        return None
    try:
        return Meeting(place.index, place.nodes, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    except (KeyError, ValueError) as error:
        findings.add(ERROR, "nodes", f"MASTER_ADDR and MASTER_PORT must say where {len(place.nodes)} nodes meet ({error})", "export both")
    except Absent as error:
        findings.add(ERROR, "nodes", str(error), "look at that node, at MASTER_ADDR, and at firewalls between nodes")
    return None


def _check_storage(findings: Findings, config: TrainConfig | SftConfig, wishes: Wishes, meeting: Meeting | None, model) -> None:
    """In a folder beside what the run writes, gone afterwards."""
    folder = Path(config.run_dir) / f".doctor-{secrets.token_hex(4)}"
    if meeting:
        meeting.share("folder", folder.name)
        folder = folder.with_name(meeting.heard("folder", str)[0])
    advice = "take a run_dir that every node may write to"
    if findings.try_out("run_dir", advice, lambda: folder.mkdir(parents=True, exist_ok=True) or True):
        if model:
            storage.check_room(findings, config, model)
            storage.check_copy(findings, config, model)
        storage.check_speed(findings, folder, wishes.slowest_disk)
    if meeting:
        meeting.check_shared(findings, folder)
    if meeting is None or meeting.index == 0:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()  # where it was made for this


def _together(findings: Findings, meeting: Meeting, names: list[str]) -> int:
    """The first node compares, gathers and prints what all found."""
    meeting.share("versions", software.versions())
    meeting.share("findings", findings.all)
    if meeting.index:
        meeting.leave()
        return 0  # the first one's status tells
    same = differing(names, meeting.heard("versions", dict[str, str]))
    everybody = meeting.heard("findings", list[Finding])
    everybody[0] += same
    meeting.leave()
    return _print(names, everybody)


def _print(names: list[str], findings: list[list[Finding]]) -> int:
    lines, status = report(names, findings)
    print("\n".join(lines), flush=True)
    return status
