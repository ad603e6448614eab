"""New weights into engines, beside a bare transfer of the same bytes, in one run:

    python tools/bench_sync.py [--size 0.5b] [--tp 1] [--pp 1] [--engines 2] [--engine-tp 1] [--rounds 3] [--ways distributed tensor disk]
        [--changed 0.03]

Real Megatron ranks (no optimizer) publish a policy of random weights to real engines. Between the rounds, with ranks and engines idle, the
same number of bytes travels barely: broadcast in buckets from one process to as many others as there are engine ranks, which copy them to
where they belong (gloo on CPU, NCCL on GPUs); for the disk written to one file and read by each engine's process; for `tensor` on a GPU
copied from one place of its memory to another. Medians; `proof` (the engines' checksums, and comparing them) is part of `sync`. Each round
publishes once more without any checksums, on either side. Over disk it publishes twice each time: all weights over a new connection, then
what changed, `--changed` of the numbers by their last bit, beside the same bare write and read of all of them.
`same work`: the broadcast again, in which every process also does what a proven sync cannot do without: receive into memory of its own,
copy that into the weights, hash all bytes at both ends. On a host whose cores do all of this that is the bound, not the bare broadcast.
"""

import argparse
import hashlib
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DEADLINE_S = 900
BUCKET_MB = 128


def settings(arguments, model: Path, run_dir: Path, way: str):
    """The configuration of a run that only publishes."""
    from megatron_oreal.config import TrainConfig, load

    overrides = {
        "experiment": "demo",
        "model.path": model,
        "data.train": "unused",
        "run_dir": run_dir,
        "model.dtype": "bfloat16",
        "parallel.tp": arguments.tp,
        "parallel.pp": arguments.pp,
        "parallel.dp": 1,
        "parallel.sequence_parallel": str(arguments.tp > 1).lower(),
        "parallel.timeout_s": DEADLINE_S,
        "rollout.engines": arguments.engines,
        "rollout.tp": arguments.engine_tp,
        "rollout.sync": way,
        "rollout.sync_bucket_mb": BUCKET_MB,
        "rollout.sync_timeout_s": DEADLINE_S,
        "rollout.ready_timeout_s": DEADLINE_S,
    }
    flags = [f"+rollout.server_args.{flag}" for flag in arguments.server_args]
    return load(TrainConfig, "train", [*(f"{name}={value}" for name, value in overrides.items()), *flags])


def join(rank: int, world: int, port: int) -> None:
    """This process as a rank of a job."""
    numbers = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()})


def publishing_rank(rank: int, world: int, port: int, config, changed: float, turns, results) -> None:
    """Publishes a next version whenever it gets a turn, ends at a turn of -1. With `changed` every odd version over a new connection, and
    every even one after a step that changed so many of the numbers. Every second of them all (pair, with `changed`) without checksums."""
    join(rank, world, port)
    from megatron_oreal.monitor.logs import quiet_libraries

    quiet_libraries()
    from megatron_oreal.engines.engines import Engines
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.learn.step import Models
    from megatron_oreal.sync.publisher import Publisher

    with Ranks(config.parallel, config.seed) as ranks:
        models = Models(config.model, config.parallel, config.compute, ranks)
        policy = models.build("policy")
        engines = Engines(config.rollout, Path(config.run_dir)) if ranks.conducts else None
        if engines:
            engines.wait_ready()
        with Publisher(config, models, ranks, engines) as publisher:
            while (version := turns.get(timeout=DEADLINE_S)) >= 0:
                if changed:
                    step(policy, changed, version)
                    if version % 2:
                        publisher.disconnect()
                with unproven() if is_unproven(version, bool(changed)) else nullcontext():
                    metrics = publisher.publish(policy, version)
                ranks.barrier()
                if ranks.conducts:
                    results.put((metrics["time/sync"], metrics["time/sync_proof"], metrics.get("sync/written_bytes", 0)))


def is_unproven(version: int, in_pairs: bool) -> bool:
    return (version - 1) // (2 if in_pairs else 1) % 2 == 1


@contextmanager
def unproven():
    """Nothing is hashed and nothing compared."""
    from megatron_oreal.sync import carry, publisher

    nothing = {"side_effect": None, "return_value": None}
    with patch.object(publisher.Publisher, "_prove", **nothing), patch.object(carry.WeightSender, "_note", **nothing):
        yield


def step(policy, changed: float, version: int) -> None:
    """This share of the weights' numbers, wherever they are, changes in the last bit: the same ones on ranks that hold the same."""
    import torch

    draw = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for chunk in policy:
            for parameter in chunk.parameters():
                bits = parameter.view(torch.int16)
                bits ^= (torch.rand(bits.shape, generator=draw) < changed).to(bits)


def bare_rank(rank: int, world: int, port: int, size: int, start, results) -> None:
    """Broadcasts in buckets from rank 0 whenever told to; rank 0 says how long the bare one took, and the one with the same work."""
    join(rank, world, port)
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= world
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=timedelta(seconds=DEADLINE_S))
    weights, bucket = (torch.ones(n, dtype=torch.uint8, device=device) for n in (size, BUCKET_MB << 20))
    while start.get(timeout=DEADLINE_S) >= 0:
        seconds = [timed(dist.barrier, broadcast_and_copy, weights, bucket, rank), timed(dist.barrier, broadcast_and_load, weights, rank)]
        if rank == 0:
            results.put(seconds)
    dist.destroy_process_group()


def timed(barrier, function, *arguments) -> float:
    """Seconds until the last process has done it."""
    barrier()
    started = time.perf_counter()
    function(*arguments)
    barrier()
    return time.perf_counter() - started


def broadcast_and_copy(weights, bucket, rank: int) -> None:
    """Into a bucket that is there already, and from there into the weights."""
    import torch.distributed as dist

    for part in weights.split(len(bucket)):
        received = bucket[: len(part)] if rank else part
        dist.broadcast(received, src=0)
        if rank:
            part.copy_(received)


def broadcast_and_load(weights, rank: int) -> None:
    """As the engines load: each bucket into new memory, then into the weights; the sender hashes meanwhile, they at the end."""
    import torch
    import torch.distributed as dist

    for part in weights.split(BUCKET_MB << 20):
        bucket = torch.empty_like(part) if rank else part
        work = dist.broadcast(bucket, src=0, async_op=True)
        if rank == 0 and not part.is_cuda:
            hashlib.sha256(memoryview(part.numpy())).digest()
        work.wait()
        if rank:
            part.copy_(bucket)
    if rank and not weights.is_cuda:
        hashlib.sha256(memoryview(weights.numpy())).digest()


def read_whole(path: str) -> None:
    """What an engine does at least."""
    with open(path, "rb", buffering=0) as file:
        block = bytearray(16 << 20)
        while file.readinto(block):
            pass


def bare_disk(folder: Path, size: int, readers: int) -> float:
    """Seconds to write so many bytes to a file, and to read it in so many processes at once."""
    block, path = os.urandom(16 << 20), folder / "bare"
    with multiprocessing.Pool(readers) as pool:
        started = time.perf_counter()
        with open(path, "wb", buffering=0) as file:
            for begin in range(0, size, len(block)):
                file.write(block[: min(len(block), size - begin)])
        pool.map(read_whole, [str(path)] * readers)
        seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def has_gpu() -> bool:
    """Here, and so everywhere on this host."""
    import torch

    return torch.cuda.is_available()


def bare_copy(size: int) -> float:
    """Seconds to copy so many bytes from one place of the GPU's memory to another: what a hand-over does at least."""
    import torch

    weights = torch.empty(size, dtype=torch.uint8, device="cuda")
    copy = torch.empty_like(weights)
    torch.cuda.synchronize()
    started = time.perf_counter()
    copy.copy_(weights)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    del weights, copy
    torch.cuda.empty_cache()
    return seconds


class Team:
    """Processes that wait for turns."""

    def __init__(self, world: int, function, *arguments):
        from megatron_oreal.launcher import free_port

        context, port = multiprocessing.get_context("spawn"), free_port()
        self._turns, self._results = [context.Queue() for _ in range(world)], context.Queue()
        places = enumerate(self._turns)
        self._all = [context.Process(target=function, args=(r, world, port, *arguments, turns, self._results)) for r, turns in places]
        for process in self._all:
            process.start()

    def turn(self, number: int):
        """What the first of them measured."""
        for turns in self._turns:
            turns.put(number)
        return self._results.get(timeout=DEADLINE_S)

    def end(self) -> None:
        for turns, process in zip(self._turns, self._all, strict=True):
            turns.put(-1)
            process.join(60)
            process.kill()


def measure(arguments, model: Path, run_dir: Path, size: int, way: str) -> dict[str, dict[str, float]]:
    """Of each kind of publication medians of the rounds; a first one of each is not counted."""
    receivers = arguments.engines * arguments.engine_tp
    config, kinds = settings(arguments, model, run_dir, way), (f"{way}, all", f"{way}, what changed") if way == "disk" else (way,)
    ranks = Team(arguments.tp * arguments.pp, publishing_rank, config, arguments.changed if way == "disk" else 0.0)
    bare = Team(1 + receivers, bare_rank, size)
    rows, without = {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    try:
        for number in range((arguments.rounds + 1) * len(kinds) * 2):
            sync, proof, written = ranks.turn(number + 1)
            kind = kinds[number % len(kinds)]
            if is_unproven(number + 1, way == "disk"):
                without[kind].append(sync)
                continue
            if way == "disk":
                bare_s, same_work = bare_disk(run_dir, size, receivers), math.nan
            elif way == "tensor" and has_gpu():
                bare_s, same_work = bare_copy(size), math.nan
            else:
                bare_s, same_work = bare.turn(number)
            rows[kind].append((sync, proof, bare_s, same_work, written))
    finally:
        ranks.end()
        bare.end()
    return {kind: medians(rounds[1:]) | {"unproven": statistics.median(without[kind][1:])} for kind, rounds in rows.items()}


def medians(rounds: list[tuple[float, ...]]) -> dict[str, float]:
    columns = (statistics.median(column) for column in zip(*rounds, strict=True))
    return dict(zip(("sync", "proof", "bare", "same_work", "written"), columns, strict=True))


def line(kind: str, m: dict[str, float], size: int) -> str:
    """Of the table."""
    ratios = f"{m['sync'] / m['bare']:.2f} | {m['unproven']:.2f} | {m['unproven'] / m['bare']:.2f}"
    work = "|" if math.isnan(m["same_work"]) else f"{m['same_work']:.2f} | {m['sync'] / m['same_work']:.2f}"
    figures = f"{m['sync']:.2f} | {m['proof']:.2f} | {size / 1e6 / m['sync']:.0f} | {m['bare']:.2f} | {ratios}"
    return f"| {kind} | {figures} | {work} | {m['written'] / 1e6:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", default="0.5b")
    parser.add_argument("--ways", nargs="+", default=["distributed", "tensor", "disk"])
    for name, default in (("tp", 1), ("pp", 1), ("engines", 2), ("engine-tp", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--changed", type=float, default=0.03, help="share of the weights' numbers that a step changes, for the disk")
    flags = {"nargs": "+", "default": ["mem-fraction-static=0.3"], "metavar": "FLAG=VALUE"}
    parser.add_argument("--server-args", **flags, help="further flags of SGLang, without the leading dashes")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

    from bench_convert import write_model
    from make_demo import make_tokenizer

    from megatron_oreal.engines.engines import open_engines

    with tempfile.TemporaryDirectory() as folder:
        model, run_dir = Path(folder) / "model", Path(folder) / "run"
        write_model(model, arguments.size, "bfloat16")
        make_tokenizer().save_pretrained(model)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        layout = f"trainer TP{arguments.tp} PP{arguments.pp}, {arguments.engines} engines of TP{arguments.engine_tp}"
        print(f"{size / 1e6:.0f} MB bfloat16, {layout}\n")
        columns = (
            "way",
            "sync, s",
            "of which proof, s",
            "MB/s",
            "bare, s",
            "ratio",
            "no proof, s",
            "ratio",
            "same work, s",
            "ratio",
            "MB written",
        )
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        config = settings(arguments, model, run_dir, "distributed")
        with open_engines(config.rollout, str(model), "bfloat16", run_dir) as engines:
            engines.wait_ready()
            for way in arguments.ways:
                for kind, medians_of in measure(arguments, model, run_dir, size, way).items():
                    print(line(kind, medians_of, size), flush=True)


if __name__ == "__main__":
    main()
