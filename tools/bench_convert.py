"""Memory and speed of `megatron-oreal convert` beside `cp` of the same files, in one run:

    python tools/bench_convert.py [--size 1.5b] [--dtype bfloat16] [--tp 2] [--pp 2] [--rounds 3] [--folder DIR]

Writes a synthetic checkpoint of a Qwen2.5 model's exact shape, then converts it to Megatron, back again, and compares, each in a process of
its own; `cp` copies the same files before each round. Both are timed with everything written to the disk at the end (convert.py does fsync,
cp is followed by sync), and cp also without.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {  # hidden, layers, feed-forward, heads, key-value heads, vocabulary, tied
    "0.5b": (896, 24, 4864, 14, 2, 151936, True),
    "1.5b": (1536, 28, 8960, 12, 2, 151936, True),
    "7b": (3584, 28, 18944, 28, 4, 152064, False),
    "32b": (5120, 64, 27648, 40, 8, 152064, False),
}
SHARD_BYTES = 10**9
BLOCK = 1 << 24
SETTLE_S = 10
WRITTEN_WITHIN_S = 3600


def write_model(folder: Path, size: str, dtype_name: str) -> None:
    """A checkpoint of random weights. In a process of its own: peak memory of a child counts from its parent's size."""
    import torch
    from transformers import AutoConfig

    from megatron_oreal.model.blueprint import hf_shapes
    from megatron_oreal.model.hf_files import TensorSpec
    from megatron_oreal.model.hf_writer import assign_shards, write_index, write_shards

    dtype = getattr(torch, dtype_name)
    hidden, layers, feed_forward, heads, groups, vocab, tied = SHAPES[size]
    config = AutoConfig.for_model(
        "qwen2",
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        architectures=["Qwen2ForCausalLM"],
        dtype=dtype,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    specs = {name: TensorSpec(dtype, shape) for name, shape in hf_shapes(config, "policy").items()}
    shards = assign_shards(specs, SHARD_BYTES)
    write_shards(folder, shards, random_tensors({n: s.shape for n, s in specs.items()}, dtype))
    write_index(folder)


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype) -> Iterator[tuple[str, object]]:
    """Tensors cut from one block of random numbers at moving places: no two are alike, and 3 GB take seconds."""
    import torch

    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).to(dtype)
    for number, (name, shape) in enumerate(shapes.items()):
        repeated = block.roll(7919 * number).repeat(-(-prod(shape) // BLOCK))
        yield name, repeated[: prod(shape)].view(shape)


@dataclass(frozen=True)
class Timing:
    """A process that moved the checkpoint's bytes."""

    seconds: float  # from start to end
    moving: float  # without its start: convert.py says so itself
    peak_gb: float  # resident memory


def timed(*command: object) -> Timing:
    """Run a process to its end, after a pause: a virtual machine gives memory back meanwhile that the process before it freed.

    (Measured: `cp` of 3 GB takes 1.3 s right after another copy was deleted, and 7 s otherwise; convert.py starts 4 s after.)
    """
    time.sleep(SETTLE_S)
    started = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit status {process.returncode}: {command}\n{output}")
    seconds = time.perf_counter() - started
    said = re.search(r" GB in ([\d.]+) s", output)
    return Timing(seconds, float(said[1]) if said else seconds, usage.ru_maxrss * 1024 / 1e9)


def measure(work: Path, tp: int, pp: int) -> dict[str, Timing]:
    """One round."""
    hf, copy, megatron, back = (work / n for n in ("hf", "copy", "megatron", "back"))
    convert = (sys.executable, ROOT / "tools" / "convert.py")
    os.sync()
    copied = timed("cp", "-r", hf, copy)
    begun = time.perf_counter()
    os.sync()
    synced = time.perf_counter() - begun
    shutil.rmtree(copy)
    results = {
        "cp": copied,
        "cp, then sync": Timing(copied.seconds + synced, copied.moving + synced, copied.peak_gb),
        "hf-to-megatron": timed(*convert, "hf-to-megatron", "--hf", hf, "--out", megatron, "--tp", tp, "--pp", pp),
        "megatron-to-hf": timed(*convert, "megatron-to-hf", "--megatron", megatron, "--out", back),
        "--verify alone": timed(*convert, "hf-to-megatron", "--hf", hf, "--out", megatron, "--verify"),
    }
    shutil.rmtree(megatron)
    shutil.rmtree(back)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="1.5b")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--pp", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder); needs four times the checkpoint")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        hf = Path(work) / "hf"
        writer = multiprocessing.get_context("spawn").Process(target=write_model, args=(hf, arguments.size, arguments.dtype))
        writer.start()
        writer.join(WRITTEN_WITHIN_S)
        if writer.exitcode != 0:
            writer.kill()
            raise SystemExit(f"the checkpoint could not be written: exit status {writer.exitcode} (None: not within {WRITTEN_WITHIN_S} s)")
        nbytes = sum(f.stat().st_size for f in hf.glob("*.safetensors"))
        rounds = [measure(Path(work), arguments.tp, arguments.pp) for _ in range(arguments.rounds)]
    layout = f"{arguments.dtype}, {nbytes / 1e9:.2f} GB, TP{arguments.tp} PP{arguments.pp}"
    print(f"Qwen2.5 {arguments.size}, {layout}, median of {arguments.rounds} rounds (s: with the start of the process; MB/s: without)\n")
    print("| | s | MB/s | of cp | of cp, then sync | peak memory, GB |\n|---|---|---|---|---|---|")
    rate = {name: statistics.median(nbytes / r[name].moving / 1e6 for r in rounds) for name in rounds[0]}
    for name in rounds[0]:
        seconds, peak = statistics.median(r[name].seconds for r in rounds), max(r[name].peak_gb for r in rounds)
        ratios = f"{rate[name] / rate['cp']:.2f} | {rate[name] / rate['cp, then sync']:.2f}"
        print(f"| {name} | {seconds:.1f} | {rate[name]:.0f} | {ratios} | {peak:.2f} |")


if __name__ == "__main__":
    main()
