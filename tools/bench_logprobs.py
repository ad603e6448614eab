"""Memory and time of the log-probabilities in chunks (model/logprobs.py) and, on CUDA, fused (model/fused_logprobs.py) against the
dense way, forward and backward, side by side:

    python tools/bench_logprobs.py [--tokens 16384] [--vocab 19008] [--device cuda]

Dense: all logits [tokens, vocabulary] in float32, log_softmax, gather, autograd. All also give the entropy, without gradient. The
vocabulary is one rank's share (152k over TP 8 is 19k) and the only share: the group has one rank, its all-reduces cost nothing.

On CUDA hidden states have Qwen2.5-7B's 3584 channels, in bfloat16; on a CPU 256 in float32, as the matrix products would hide
everything else, and logits, which are what differs, do not depend on it.

Each way runs in a process of its own. Extra memory is the peak during forward and backward, gradients included, over what was held
before with the inputs in place: of the process (resident set) on a CPU, of torch's allocator on CUDA.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_oreal.model.logprobs import vocab_parallel_logprobs
from megatron_oreal.model.platform import Platform

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = {"cpu": 256, "cuda": 3584}
DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}
WARM_UP_TOKENS = 64  # loads kernels and libraries, in less memory than is measured
DEADLINE_S = 900
LogProbs = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Measurement:
    """One way, measured; the last two say that all ways compute the same."""

    extra_bytes: int
    seconds: float
    mean_logprob: float
    gradient_norm: float  # of the LM head


def dense(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """vocab_parallel_logprobs for a whole vocabulary, with autograd: (log-probabilities [tokens], entropy [tokens])."""
    logits = torch.nn.functional.linear(hidden, weight).float()
    logprobs = logits.log_softmax(-1)
    del logits
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(1, targets[:, None])[:, 0], entropy


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """vocab_parallel_logprobs on a group of one rank."""
    return vocab_parallel_logprobs(hidden, weight, targets, dist.group.WORLD, len(weight))


def fused(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same by Triton's kernels."""
    return Platform(hidden.device, "nccl").logprobs("fused")(hidden, weight, targets, dist.group.WORLD, len(weight))


WAYS: dict[str, LogProbs] = {"dense": dense, "chunked": chunked, "fused": fused}
ON = {"cpu": ("dense", "chunked"), "cuda": ("dense", "chunked", "fused")}


def measure(way: LogProbs, tokens: int, vocab: int, device: str) -> Measurement:
    """Forward and backward, once, in this process."""
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    options = {"device": device, "dtype": DTYPE[device]}
    hidden = torch.randn(tokens, HIDDEN[device], **options).requires_grad_()
    weight = torch.randn(vocab, HIDDEN[device], **options).mul_(HIDDEN[device] ** -0.5).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), device=device)
    way(hidden[:WARM_UP_TOKENS], weight, targets[:WARM_UP_TOKENS])[0].sum().backward()
    hidden.grad = weight.grad = None
    before = _peak(device, reset=True)
    start = time.perf_counter()
    logprobs, _ = way(hidden, weight, targets)
    logprobs.mean().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    measured = Measurement(_peak(device) - before, seconds, float(logprobs.detach().mean()), float(weight.grad.float().norm()))
    dist.destroy_process_group()
    return measured


def _peak(device: str, reset: bool = False) -> int:
    """Most bytes held so far. A process's peak cannot be reset: it is the inputs', if nothing larger was held before them."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def measure_apart(name: str, tokens: int, vocab: int, device: str) -> Measurement:
    """measure() in a process of its own."""
    options = {"--way": name, "--tokens": tokens, "--vocab": vocab, "--device": device}
    command = [sys.executable, "-m", "tools.bench_logprobs", *(str(word) for pair in options.items() for word in pair)]
    done = subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE_S, stdout=subprocess.PIPE, text=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocab", type=int, default=19008)
    parser.add_argument("--device", choices=HIDDEN, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--way", choices=WAYS, help="measure this one here, for the process that compares")
    arguments = parser.parse_args()
    shape = (arguments.tokens, arguments.vocab, arguments.device)
    if arguments.way:
        print(json.dumps(asdict(measure(WAYS[arguments.way], *shape))))
        return
    found = {name: measure_apart(name, *shape) for name in ON[arguments.device]}
    print(f"{arguments.tokens} tokens, {arguments.vocab} words, {HIDDEN[arguments.device]} channels, {arguments.device}\n")
    print("| log-probabilities | extra memory, MiB | ratio | seconds | mean | norm of the head's gradient |")
    print("|---|---|---|---|---|---|")
    for name, m in found.items():
        share = m.extra_bytes / found["dense"].extra_bytes
        print(f"| {name} | {m.extra_bytes / 2**20:,.0f} | {share:.3f} | {m.seconds:.3f} | {m.mean_logprob:.6f} | {m.gradient_norm:.6e} |")


if __name__ == "__main__":
    main()
