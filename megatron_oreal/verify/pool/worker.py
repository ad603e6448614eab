"""One worker process of the pool: `python -m megatron_oreal.verify.pool.worker FD MEMORY_MB TIMEOUT_S`.

Speaks length-prefixed JSON over the socket FD; standard input, output and error are /dev/null. Imports neither
torch nor megatron. Ends at the end of the socket, when its parent is gone, or at its CPU limit.
"""

import math
import os
import resource
import select
import signal
import socket
import sys

from megatron_oreal.verify.pool.channel import receive, send
from megatron_oreal.verify.rules.equivalence import compare

PARENT_CHECK_S = 5.0


def _limit_memory(megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_cpu(seconds: float) -> None:
    """From now on; the kernel ends the process there, whether or not its parent is alive to do so."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, resource.RLIM_INFINITY))


def _answer(question: dict) -> dict:
    try:
        verdict = compare(question["answer"], question["gold"])
    except MemoryError:
        return {"right": False, "reason": "memory", "decided": False}
    except Exception as error:  # whatever it is: it costs this case, and is told apart from "different"
        return {"right": False, "reason": f"error: {type(error).__name__}", "decided": False}
    return {"right": verdict.right, "reason": verdict.reason, "decided": verdict.decided}


def serve(channel: socket.socket, timeout_s: float) -> None:
    """Answer questions until the other end closes or the parent is gone."""
    parent = os.getppid()
    compare(r"\sqrt{8}", r"2\sqrt{2}")  # loads what is loaded at first need, before a deadline runs
    send(channel, {"ready": True})
    while True:
        if not select.select([channel], [], [], PARENT_CHECK_S)[0]:
            if os.getppid() != parent:
                return
            continue
        question = receive(channel)
        _limit_cpu(timeout_s)
        send(channel, _answer(question))


def main() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm sends it to all processes of a step; it is meant for the ranks
    descriptor, memory_mb, timeout_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    _limit_memory(memory_mb)
    with socket.socket(fileno=descriptor) as channel:
        try:
            serve(channel, timeout_s)
        except (EOFError, OSError):
            return


if __name__ == "__main__":
    main()
