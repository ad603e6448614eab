"""What takes several nodes: whether they find each other, how fast each pair adds up a tensor, and whether they see the same files."""

import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from megatron_oreal.doctor.findings import ERROR, OK, Finding, Findings
from megatron_oreal.learn.meeting import own_among
from megatron_oreal.model.platform import Platform
from megatron_oreal.network import ends_towards, speak_through

MEET_S = 120.0
PAIR_S = 60.0
SEEN_S = 20.0
TRIALS = 5
PAYLOAD_BYTES = {"gloo": 16 << 20, "nccl": 256 << 20}
SLOWEST_GB_S = {"gloo": 0.05, "nccl": 5.0}
"""Payload bytes over the time of an all-reduce between two nodes, below which a run would crawl."""


class Absent(RuntimeError):
    """A node did not come, or did not say what it found: one line."""


class Meeting:
    """One process a node, joined through a store on the first; nothing that is sent is unpickled."""

    def __init__(self, index: int, nodes: list[str], address: str, port: int):
        """`index` of this node among all of them, in Slurm's order.

        Raises:
            Absent: on the first node: who did not come within MEET_S; on another: the first did not.
        """
        self.index, self._nodes, self._address = index, nodes, address
        try:
            deadline = timedelta(seconds=MEET_S)
            self._store = dist.TCPStore(address, port, is_master=index == 0, wait_for_workers=False, timeout=deadline)
            self._store.set(f"here/{index}", "")
        except (RuntimeError, ValueError) as error:
            raise Absent(f"{nodes[0]} is not reached at {address}:{port} ({str(error).splitlines()[0][:200]})") from error
        self.all_at("here")
        self._device, self._backend = Platform.detect().device, Platform.detect().backend

    def all_at(self, what: str) -> None:
        """Wait until every node has said `what`.

        Raises:
            Absent: with the names of those that have not within MEET_S.
        """
        deadline = time.monotonic() + MEET_S
        while True:
            absent = [node for i, node in enumerate(self._nodes) if not self._store.check([f"{what}/{i}"])]
            if not absent:
                return
            if time.monotonic() > deadline:
                raise Absent(f"{', '.join(absent[:4])} (of {len(self._nodes)} nodes) did not come to '{what}' within {MEET_S:g} s")
            time.sleep(0.1)

    def share(self, key: str, value: object) -> None:
        """Say something to whoever asks for it."""
        self._store.set(f"{key}/{self.index}", msgspec.json.encode(value))

    def heard(self, key: str, kind: type) -> list:
        """What every node said, in their order."""
        self.all_at(key)
        return [msgspec.json.decode(self._store.get(f"{key}/{i}"), type=kind) for i in range(len(self._nodes))]

    def leave(self) -> None:
        """All nodes do; the store goes with the first, which is the last to leave."""
        self._store.set(f"left/{self.index}", "")
        if self.index == 0:
            self.all_at("left")

    def check_pairs(self, findings: Findings, slowest_gb_s: float | None) -> float | None:
        """Time an all-reduce between this node and each other one; the first node of a pair notes it where it is too slow or fails.

        Returns GB/s of the slowest pair on the first node; None on others, and where no pair could be timed.

        Args:
            slowest_gb_s: payload over time; None: SLOWEST_GB_S of the back end.
        """
        slowest = SLOWEST_GB_S[self._backend] if slowest_gb_s is None else slowest_gb_s
        self._join()
        seen = {}
        for a, b in (pair for some in rounds(len(self._nodes)) for pair in some if self.index in pair):
            name = f"{self._nodes[a]}-{self._nodes[b]}"
            try:
                seen[name] = self._speed(a, b)
            except RuntimeError as error:
                text = f"{name}: {self._backend} fails ({str(error).splitlines()[0][:160]})"
                findings.add(ERROR, "all-reduce", text, "look at the interfaces of both (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)")
                continue
            if seen[name] < slowest and self.index == a:
                text = f"{name}: {seen[name]:.3f} GB/s with {self._backend}, below {slowest:g}"
                findings.add(ERROR, "all-reduce", text, "drain the node that all slow pairs share: sbatch --exclude")
        dist.destroy_process_group()
        self.share("speed", seen)
        known = {name: speed for some in self.heard("speed", dict[str, float]) for name, speed in some.items()} if self.index == 0 else {}
        if not known:
            return None
        least = min(known, key=known.get)
        among = f"{len(known)} pairs, slowest {least}"
        findings.add(OK, "all-reduce", f"{among}: {known[least]:.3f} GB/s with {self._backend}, {slowest:g} asked for")
        return known[least]

    def _join(self) -> None:
        """All in one group, through the interfaces that a run would use (see learn/meeting.py)."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        self.share("sees", ends_towards(self._address)[1])
        seen = self.heard("sees", str)
        self.share("address", own_among(seen) if self.index == 0 else "")
        speak_through(ends_towards(self.heard("address", str)[0])[0])
        store, size, deadline = dist.PrefixStore("group", self._store), len(self._nodes), timedelta(seconds=PAIR_S)
        dist.init_process_group(self._backend, store=store, rank=self.index, world_size=size, timeout=deadline)

    def _speed(self, a: int, b: int) -> float:
        """GB/s of payload between two nodes; both call it. The median of some trials, after one that connects them."""
        group = dist.new_group([a, b], timeout=timedelta(seconds=PAIR_S), use_local_synchronization=True)
        tensor = torch.zeros(PAYLOAD_BYTES[self._backend] // 4, device=self._device)
        seconds = []
        for _ in range(TRIALS + 1):
            started = time.perf_counter()
            dist.all_reduce(tensor, group=group, async_op=True).wait(timedelta(seconds=PAIR_S))
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        dist.destroy_process_group(group)
        return PAYLOAD_BYTES[self._backend] / 1e9 / statistics.median(seconds[1:])

    def check_shared(self, findings: Findings, folder: Path) -> None:
        """Whether every node sees what every other one writes into this folder."""
        mine = folder / f"node-{self.index}"
        try:
            mine.write_text(self._nodes[self.index])
        except OSError as error:
            findings.add(ERROR, "shared", f"{folder.parent}: {error}", "take a run_dir that every node may write to")
        self.share("wrote", True)
        self.all_at("wrote")
        unseen = self._unseen(folder)
        if unseen:
            text = f"{folder.parent}: the files of {', '.join(unseen[:4])} are not seen here"
            findings.add(ERROR, "shared", text, "take a run_dir on a file system that all nodes share")
        else:
            findings.add(OK, "shared", f"{folder.parent} is one folder on {len(self._nodes)} nodes")
        self.share("looked", True)
        self.all_at("looked")
        mine.unlink(missing_ok=True)

    def _unseen(self, folder: Path) -> list[str]:
        """Nodes whose file does not turn up; a shared file system may hide a new file for some seconds."""
        deadline = time.monotonic() + SEEN_S
        while True:
            there = {path.name for path in folder.glob("node-*")}
            unseen = [node for i, node in enumerate(self._nodes) if f"node-{i}" not in there]
            if not unseen or time.monotonic() > deadline:
                return unseen
            time.sleep(0.5)


def rounds(nodes: int) -> Iterator[list[tuple[int, int]]]:
    """Every pair of nodes once, in rounds of pairs that have no node in common (a round-robin tournament)."""
    seats = [*range(nodes), *([None] * (nodes % 2))]
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None]
        seats.insert(1, seats.pop())


def differing(nodes: list[str], versions: list[dict[str, str]]) -> list[Finding]:
    """Where nodes have other software or GPUs than the first."""
    found = []
    for node, its in zip(nodes[1:], versions[1:], strict=True):
        for name, first in versions[0].items():
            if its[name] != first:
                text = f"{name}: {its[name]} on {node}, {first} on {nodes[0]}"
                found.append(Finding(ERROR, "same software", text, "give all nodes the same environment or image"))
    return found or [Finding(OK, "same software", f"on {len(nodes)} nodes")]
