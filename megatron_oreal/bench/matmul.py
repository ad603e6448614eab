"""The ceiling that shares are of: a square product on this device, as fast as it goes."""

import statistics
import time

import torch

SIZE = {"cuda": 8192, "cpu": 1024}
FOR_S = 1.0
"""So long products follow each other: a GPU's clock sinks under load."""
FEWEST = 5


def matmul_flops(device: torch.device) -> float:
    """FLOP/s of the median product; bfloat16 on a GPU, float32 on a CPU."""
    size, dtype = SIZE[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    seconds, began = [], time.perf_counter()
    while len(seconds) < FEWEST or time.perf_counter() - began < FOR_S:
        started = _now(device)
        torch.mm(a, b)
        seconds.append(_now(device) - started)
    return 2.0 * size**3 / statistics.median(seconds)


def _now(device: torch.device) -> float:
    """When all that a GPU was given to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
