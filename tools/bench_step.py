"""The OREAL step at size on one GPU: seconds, FLOP/s and memory of its stages beside the matmul ceiling of the same run.

    python tools/bench_step.py [--shape 32b-tp8 32b-layers 7b] [--layers auto] [--tokens 16384] [--against-plain] [--profile DIR]

A real Learner (learn/step.py) of random weights trains on synthetic trajectories, `--micro-batches` times `--tokens` of them a step, half
right and half wrong; medians of `--steps` steps after `--warm-up`. Shapes: `7b` has Qwen2.5-7B's layers and vocabulary, `32b-layers`
whole layers of Qwen2.5-32B with an eighth of its vocabulary, as a middle stage holds none of it; `32b-tp8` is what one of eight
tensor-parallel ranks computes: 5 heads, 1 key-value head, 3456 feed-forward channels, 19,008 words, hidden size 5120, and no
communication. (Norms and residual stream are whole, where sequence parallelism would leave an eighth: a little more work than the share.)
`auto`: as many layers as fit by the planner's formula. `tiny` is for CPUs.

FLOPs are the planner's (learn.packing.Cost: causal attention counted a sequence, half of length x length), the LM head's over response
tokens alone. `computed` has what is computed twice (logits, recomputed layers), `needed` has not; both are shown as shares of the ceiling,
the median speed of a square product. `optimizer` is both models' clipping and Adam; `else` whatever is left of the step.

--against-plain: the same samples and weights by the reading version, oreal/reference.py, under FSDP, in a process of its own.
--profile: a trace of one step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_oreal.model.blueprint import hf_shapes
from megatron_oreal.model.hf_files import TensorSpec
from megatron_oreal.model.hf_writer import assign_shards, write_index, write_shards
from tools.bench_convert import random_tensors
from tools.step_figures import SHAPES, Asked, Measured, as_text, layers_that_fit, report

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 900
WEIGHTS_STD = 0.02


def write_model(folder: Path, asked: Asked) -> None:
    """A Hugging Face folder of small random weights."""
    hf, dtype = asked.hf, getattr(torch, asked.dtype)
    hf.save_pretrained(folder)
    shapes = hf_shapes(hf, "policy")
    small = ((n, torch.ones_like(t) if "norm" in n else t.mul(WEIGHTS_STD)) for n, t in random_tensors(shapes, dtype))
    write_shards(folder, assign_shards({n: TensorSpec(dtype, s) for n, s in shapes.items()}), small)
    write_index(folder)


def measure_apart(way: str, asked: Asked, folder: str, trace: Path | None) -> Measured:
    """One of step_measure.WAYS in a process of its own, so that its memory is its own.

    Raises:
        SystemExit: it failed; what it said is on stderr.
    """
    plain = {} if torch.cuda.is_available() else {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}  # on a GPU as a run has it
    environment = plain | os.environ
    command = [sys.executable, "-W", "ignore", "-m", "tools.step_measure", way, folder, json.dumps(asdict(asked))]
    command += [str(trace.resolve())] if trace else []
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=DEADLINE_S, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench_step: {way}, {asked}: exit status {done.returncode}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def bench(shape: str, arguments: argparse.Namespace) -> dict:
    """The report of one shape."""
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    a = arguments
    asked = Asked(shape, 1, a.tokens, a.micro_batches, a.recompute, dtype, a.steps, a.warm_up)
    asked = replace(asked, layers=layers_that_fit(asked) if a.layers == "auto" else int(a.layers))
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), asked)
        ours = measure_apart("ours", asked, folder, a.profile and a.profile / shape)
        plain = measure_apart("plain", asked, folder, None) if a.against_plain else None
    return report(asked, ours, plain)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["32b-tp8", "32b-layers", "7b"])
    parser.add_argument("--layers", default="auto", help="a number, or auto")
    for name, default in (("tokens", 16384), ("micro-batches", 4), ("steps", 5), ("warm-up", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recompute", choices=("none", "core_attn", "mlp", "full"), default="none")
    parser.add_argument("--against-plain", action="store_true")
    parser.add_argument("--profile", type=Path, help="folder for a trace of one step, a folder a shape")
    parser.add_argument("--json", action="store_true", help="one object a shape and line, in place of the tables")
    return parser.parse_args(words)


def main() -> None:
    arguments = parse()
    for shape in arguments.shape:
        found = bench(shape, arguments)
        print(json.dumps(found) if arguments.json else as_text(found) + "\n", flush=True)


if __name__ == "__main__":
    main()
