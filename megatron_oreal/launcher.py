"""Which of a job's ranks this process is, as its launcher says in the environment; and a launcher for whoever starts a run by hand:
as many processes on this host as the layout needs, and their end."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_oreal.memory_watch import MemoryWatch
from megatron_oreal.stop import REQUESTS

POLL_S = 0.1
SURVIVORS_END_WITHIN_S = 40  # after a rank has failed: the others find out by themselves, say whom they lost, and end
INTERRUPTED_END_WITHIN_S = 15  # after Ctrl-C; then SIGKILL
INTERRUPTED = 130
PORTS = range(20000, 32000)
LEFT_OVER = "left over from another job they are to be unset: then as many ranks as `parallel` needs start here"


@dataclass(frozen=True)
class Placement:
    """This process among the job's: from torchrun's variables, else from srun's, else alone."""

    rank: int
    world_size: int
    local_rank: int
    variables: tuple[str, ...] = field(default=(), compare=False)  # that say so; empty: no launcher does

    @property
    def because(self) -> str:
        """For the end of an error message: what says that this is a job of so many ranks."""
        return f"; {said(self.variables)}; {LEFT_OVER}" if self.variables else ""

    @classmethod
    def detect(cls) -> "Placement":
        """Raises ValueError where they are no numbers, or no such rank can be."""
        for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
            there = [name for name in names[:2] if name in os.environ]
            if there == ["RANK"]:
                raise ValueError(f"{said(there)}, but not WORLD_SIZE; {LEFT_OVER}")
            if len(there) < 2:  # a shell of salloc knows how many tasks there are, and is none; a batch script may know the opposite
                continue
            rank, world, local = (number(name) for name in names)
            if rank >= world:
                raise ValueError(f"{names[0]}={rank} must be below {names[1]}={world}; {LEFT_OVER}")
            return cls(rank, world, local, names[:2])
        return cls(0, 1, 0)


def number(name: str) -> int:
    """The value of a variable, 0 where it is not set. Raises ValueError where it is no number."""
    text = os.environ.get(name, "0")
    if not text.isdecimal():
        raise ValueError(f"{name}={text} is set, and no number; {LEFT_OVER}")
    return int(text)


def said(variables: Sequence[str]) -> str:
    """Which they are, and their values."""
    return f"{', '.join(f'{name}={os.environ[name]}' for name in variables)} {'are' if len(variables) > 1 else 'is'} set"


def run_local_ranks(module: str, arguments: Sequence[str], ranks: int) -> int:
    """Run `python -m module arguments` in so many ranks; the exit status of the first that failed, else 0.

    Requests to stop are passed on: the ranks then save and end by themselves. A rank that fails ends the job.

    Raises:
        ValueError: more ranks than this host has GPUs.
    """
    import torch

    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        raise ValueError(f"parallel: {ranks} ranks on {torch.cuda.device_count()} GPUs; start the job with srun or torchrun")
    port = HeldPort()
    processes: list[subprocess.Popen] = []

    def pass_on(signum, frame) -> None:
        for process in processes:
            process.send_signal(signum)

    for request in REQUESTS:
        signal.signal(request, pass_on)
    try:
        for rank in range(ranks):
            environment = os.environ | _rank_environment(rank, ranks, port.number)
            processes.append(start_module(module, arguments, env=environment))
        return _wait(processes)
    except KeyboardInterrupt:
        _end(processes, signal.SIGINT, INTERRUPTED_END_WITHIN_S)
        return INTERRUPTED
    finally:
        _end(processes, signal.SIGKILL, INTERRUPTED_END_WITHIN_S)
        port.let_go()


def start_module(module: str, arguments: Sequence[str], **options) -> subprocess.Popen:
    """`python -m module arguments`; `options` are Popen's. All ranks and engines of a run that are started by hand begin here."""
    return subprocess.Popen([sys.executable, "-m", module, *arguments], **options)


def _wait(processes: list[subprocess.Popen]) -> int:
    """Until all have ended; once one has failed, the others have a while to end by themselves."""
    failed, deadline, memory = 0, None, MemoryWatch()
    while True:
        statuses = [process.poll() for process in processes]
        if not any(statuses):
            memory.look({f"rank {rank}": process.pid for rank, process in enumerate(processes)})
        for rank, status in enumerate(statuses):
            if status and not failed:
                failed, deadline = status, time.monotonic() + SURVIVORS_END_WITHIN_S
                if status < 0:
                    print(f"error: rank {rank} was ended by signal {-status}{memory.blame()}", file=sys.stderr, flush=True)
        if None not in statuses or (deadline and time.monotonic() > deadline):
            return failed if failed >= 0 else 1
        time.sleep(POLL_S)


def _end(processes: list[subprocess.Popen], how: signal.Signals, seconds: float) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(how)
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)


class HeldPort:
    """A port of this host that nobody else is given, on any of its addresses, until it is let go or this process ends.

    It is bound, and not listened at: a process of ours that is told its number may do that, minutes later too. Below the range from which
    the kernel gives ports to outgoing connections: one of those would keep it from listening (seen with SGLang).
    """

    def __init__(self):
        families = (socket.AF_INET, socket.AF_INET6) if socket.has_dualstack_ipv6() else (socket.AF_INET,)
        while True:
            self.number = PORTS.start + secrets.randbelow(len(PORTS))
            self._sockets = [socket.socket(family) for family in families]
            try:
                for one in self._sockets:
                    _bind(one, self.number)
                return
            except OSError:  # taken, or held by another run
                self.let_go()

    def let_go(self) -> None:
        """Anybody may have it."""
        for one in self._sockets:
            one.close()


def free_port() -> int:
    """A port that somebody whom we start now may listen at some seconds later; see HeldPort, which is safe."""
    port = HeldPort()
    port.let_go()
    return port.number


def _bind(one: socket.socket, port: int) -> None:
    if one.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind(("", port))  # refused where anybody has it
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from here on the one that listens there may bind it, too


def _rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()}
