"""How fast the GPUs of this node copy to each other: where new weights are gathered, and tensor parallelism sums in every layer."""

import statistics
import time
from collections.abc import Sequence
from itertools import combinations
from math import floor, log10

import torch

from megatron_oreal.doctor.findings import ERROR, OK, WARNING, Findings

PAYLOAD_BYTES = 256 << 20
TRIALS = 3
SLOWEST_GB_S = 40.0
"""PCIe 5.0 x16 gives some 50, NVLink of an A100 and later 200 and more: below, a pair goes through the host's memory."""


def check_links(findings: Findings, here: int) -> None:
    """Of the first `here` GPUs; nothing is said where there are fewer than two."""
    devices = [torch.device("cuda", i) for i in range(min(here, torch.cuda.device_count()))]
    if len(devices) > 1:
        compare(findings, devices)


def compare(findings: Findings, devices: Sequence[torch.device]) -> None:
    """Note the slowest pair."""
    try:
        seen = {(a, b): copied_gb_s(devices[a], devices[b]) for a, b in combinations(range(len(devices)), 2)}
    except RuntimeError as error:  # torch's, of CUDA and of memory alike
        findings.add(ERROR, "GPU links", str(error).splitlines()[0][:200], "look at nvidia-smi, and at what else runs on these GPUs")
        return
    (a, b), speed = min(seen.items(), key=lambda pair: pair[1])
    if speed < SLOWEST_GB_S:
        text = (
            f"GPUs {a} and {b} copy to each other at {speed:.3g} GB/s, below {SLOWEST_GB_S:g}; the fastest pair at {max(seen.values()):.3g}"
        )
        findings.add(WARNING, "GPU links", text, "keep parallel.tp and rollout.tp within GPUs that NVLink joins")
    else:
        findings.add(OK, "GPU links", f"{len(devices)} GPUs copy to each other at {rounded_down(speed):g} GB/s and more")


def rounded_down(speed: float) -> float:
    """To one digit, so that nodes alike say the same."""
    unit = 10 ** floor(log10(speed))
    return floor(speed / unit) * unit


def copied_gb_s(a: torch.device, b: torch.device) -> float:
    """From one's memory to the other's: the median of some trials, after one that opens the way."""
    source, target = (torch.zeros(PAYLOAD_BYTES, dtype=torch.uint8, device=device) for device in (a, b))
    seconds = []
    for _ in range(TRIALS + 1):
        started = time.perf_counter()
        target.copy_(source)
        for device in {d for d in (a, b) if d.type == "cuda"}:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return PAYLOAD_BYTES / 1e9 / statistics.median(seconds[1:])
