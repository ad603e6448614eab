"""Triton's kernels against the chunked way: in Triton's interpreter on a CPU, as compiled code without a GPU, and natively."""

import importlib.metadata
import multiprocessing
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_oreal.model import shape
from megatron_oreal.model.logprobs import vocab_parallel_logprobs
from megatron_oreal.model.platform import Platform

# By what is installed: beside an engine's test find_spec would find the stub of engines.sglang_cpu.
HAS_TRITON = any(importlib.metadata.distributions(name="triton"))
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton: tests/README.md says how")
VOCAB, HIDDEN = 2083, 40  # over two ranks: one padding row; a strip and a part of one; no multiple of a tile in any direction
NAMES = ("logprobs", "entropy", "hidden", "weight")
H100_SHARED_BYTES = 227 * 1024


@dataclass(frozen=True)
class Case:
    """What is computed by both ways."""

    tokens: int
    scale: float = 1.0  # of the hidden states
    main_grad: bool = False  # as Megatron has it


CASES = {
    1: [Case(37), Case(37, scale=1e4), Case(0)],
    2: [Case(37, main_grad=True), Case(1)],
}


def both_ways(cases: list[Case]) -> list[tuple[list, list]]:
    """(log-probabilities, entropy, gradient of hidden summed over TP, gradient of this rank's rows) by the chunked and the fused way.

    In Triton's interpreter, with the tiles of bfloat16, and chunks of 16 tokens in the backward pass.
    """
    from megatron_oreal.model import logprob_kernels

    logprob_kernels.TILES[torch.float32] = logprob_kernels.TILES[torch.bfloat16]
    shape.GRADIENT_BYTES, shape.LEAST_TOKENS = 0, 16
    dist.init_process_group("gloo")
    ways = vocab_parallel_logprobs, Platform(torch.device("cpu"), "gloo").logprobs("fused")
    results = [tuple(of_a_rank(way, case) for way in ways) for case in cases]
    dist.destroy_process_group()
    return results


def inputs(tokens: int, scale: float):
    generator = torch.Generator().manual_seed(tokens)
    hidden, weight = torch.randn(tokens, HIDDEN, generator=generator) * scale, torch.randn(VOCAB, HIDDEN, generator=generator)
    return hidden, weight, torch.randint(0, VOCAB, (tokens,), generator=generator), torch.randn(tokens, generator=generator)


def of_a_rank(way, case: Case) -> list:
    hidden, weight, targets, upstream = inputs(case.tokens, case.scale)
    rows = -(-VOCAB // dist.get_world_size())
    padded = torch.nn.functional.pad(weight, (0, 0, 0, rows * dist.get_world_size() - VOCAB), value=7.0)
    local = padded[dist.get_rank() * rows :][:rows].clone().requires_grad_()
    if case.main_grad:
        local.main_grad = torch.full(local.shape, 0.5)
    logprobs, entropy = way(hidden.requires_grad_(), local, targets, dist.group.WORLD, VOCAB)
    logprobs.backward(upstream)
    dist.all_reduce(hidden.grad)
    return [t.detach().numpy() for t in (logprobs, entropy, hidden.grad, local.main_grad if case.main_grad else local.grad)]


@needs_triton
@pytest.mark.parametrize("world", CASES)
def test_the_fused_way_equals_the_chunked_one(ranks, monkeypatch, world):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when triton is imported: of processes that nobody else has imported anything in
    for results in ranks(world, both_ways, CASES[world], context=multiprocessing.get_context("spawn")):
        for case, (chunked, fused) in zip(CASES[world], results, strict=True):
            for name, a, b in zip(NAMES, chunked, fused, strict=True):
                expected, got = torch.from_numpy(a), torch.from_numpy(b)
                assert got.isfinite().all(), (case, name)
                # Logits are rounded by their own size, and where two are near each other a probability changes by as much.
                atol = 3e-6 * max([1.0, *expected.abs().flatten().tolist()]) * (case.scale if name in ("hidden", "weight") else 1)
                assert torch.allclose(got, expected, rtol=1e-5, atol=atol), (case, name, (got - expected).abs().max())


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["_sum_strips", "_write_gradient"])
def test_compiled_for_an_h100_nothing_is_spilled_and_shared_memory_suffices(kernel, tmp_path):
    from megatron_oreal.model import logprob_kernels

    compiled = compile_for_h100(getattr(logprob_kernels, kernel), logprob_kernels.TILES[torch.bfloat16])
    assert compiled.metadata.shared <= H100_SHARED_BYTES
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert "cp.async" in compiled.asm["ptx"]
    (tmp_path / "cubin").write_bytes(compiled.asm["cubin"])
    assert stack_bytes(tmp_path / "cubin") == 0


def compile_for_h100(kernel, tile):
    """As for shapes that 16 divides."""
    import triton
    from triton.backends.compiler import GPUTarget

    from megatron_oreal.model.logprob_kernels import STRIP, launch_options

    constants = launch_options(tile) | ({"STRIP": STRIP} if "STRIP" in kernel.arg_names else {})
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    types = {"hidden": "*bf16", "weight": "*bf16", "gradient": "*bf16", "targets": "*i64", "tokens": "i32", "words": "i32", "width": "i32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name not in {*constants, "tokens"}}
    source = triton.compiler.ASTSource(kernel, signature, places, divisible)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def stack_bytes(cubin: Path) -> int:
    """Of a thread: what registers do not hold."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, "-res-usage", cubin], check=True, capture_output=True, text=True, timeout=60).stdout
    return int(re.search(r"STACK:(\d+)", said)[1])


def on_a_gpu(tokens: int, vocab: int, hidden: int) -> tuple[list, list, list, int]:
    """The fused way in bfloat16, the chunked one in bfloat16 and, of the same numbers, in float32; most bytes that the first one held."""
    dist.init_process_group("nccl")
    torch.manual_seed(0)
    values = torch.randn(tokens, hidden), torch.randn(vocab, hidden) * hidden**-0.5
    states, weight = (t.to("cuda", torch.bfloat16) for t in values)
    targets, upstream = torch.randint(0, vocab, (tokens,), device="cuda"), torch.randn(tokens, device="cuda")

    def of(way, dtype) -> list:
        a, b = states.to(dtype, copy=True).requires_grad_(), weight.to(dtype, copy=True).requires_grad_()
        b.main_grad = torch.zeros(vocab, hidden, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        logprobs, entropy = way(a, b, targets, dist.group.WORLD, vocab)
        logprobs.backward(upstream)
        return [t.detach().float().cpu().numpy() for t in (logprobs, entropy, a.grad, b.main_grad)]

    fused = Platform(torch.device("cuda"), "nccl").logprobs("fused")
    before = torch.cuda.memory_allocated()
    results = [of(fused, torch.bfloat16)]
    held = torch.cuda.max_memory_allocated() - before
    results += [of(vocab_parallel_logprobs, dtype) for dtype in (torch.bfloat16, torch.float32)]
    dist.destroy_process_group()
    return *results, held


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("tokens", "vocab", "hidden"),
    [(1, 5003, 264), (37, 5003, 264), (700, 5003, 250), (4096, 32000, 512)],
    ids=["one", "37", "odd", "large"],
)
def test_on_a_gpu_both_ways_in_bfloat16_keep_logits_in_float32(ranks, tokens, vocab, hidden, record_property):
    fused, chunked, exact, held = ranks(1, on_a_gpu, tokens, vocab, hidden)[0]
    for name, a, b, c in zip(NAMES, fused, chunked, exact, strict=True):
        ours, theirs = ((torch.from_numpy(x - c).norm() / torch.from_numpy(c).norm()).item() for x in (a, b))
        record_property(name, f"fused {ours:.2e}, chunked {theirs:.2e}")
        assert max(ours, theirs) < (1e-5 if name in ("logprobs", "entropy") else 5e-3), name  # gradients of logits are rounded to bfloat16
    if tokens * vocab > 1e8:
        inputs_and_gradients = 2 * 2 * (tokens + vocab) * hidden + 4 * vocab * hidden
        assert held - inputs_and_gradients < 0.75 * 4 * tokens * vocab, "float32 logits were in memory"
