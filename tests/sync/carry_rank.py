"""A rank among pipeline stages on different hosts: gets the tensors of all stages, and says how long it took and whether they are right.

python -m tests.sync.carry_rank FOLDER STAGES BUCKET_BYTES BYTES_OF_STAGE_0,1,...
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.sync.gather import Bucket, buckets
from megatron_oreal.sync.stages import Packed, Stages
from tests.settings import parallel_config

PIECE = 100_000
"""Numbers of a tensor."""
TIMES = 3
"""The fastest counts: whatever else the machine does can only make it slower."""


def tensors(stage: int, size: int) -> Bucket:
    """Some that nobody else makes, `size` bytes in all."""
    drawn = torch.Generator().manual_seed(stage)
    numbers = [torch.randint(-9, 9, (min(PIECE, left),), generator=drawn) for left in range(size // 2, 0, -PIECE)]
    return [(f"stage{stage}.{i}", piece.to(torch.bfloat16)) for i, piece in enumerate(numbers)]


def main() -> None:
    folder, stages, bucket_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sizes = [int(size) for size in sys.argv[4].split(",")]
    ranks = Ranks(parallel_config(pp=stages), seed=0)
    rank = ranks.placement.rank
    way, own = Stages(torch.device("cpu")), tensors(rank, sizes[rank])
    right = dict(pair for stage, size in enumerate(sizes) for pair in tensors(stage, size))
    before, seconds = _bytes(), []
    for _ in range(TIMES):
        got = []
        dist.barrier()
        started = time.perf_counter()
        for round in way.rounds(buckets(own, bucket_bytes)):
            way.fill(memory := torch.empty(round.starts[-1], dtype=torch.uint8), round)
            got.append(round.packed(memory))
        dist.barrier()
        seconds.append(time.perf_counter() - started)
    after = _bytes()
    said = {way: (after[way] - before[way]) / TIMES for way in after} | {"seconds": seconds, "right": _same(got, right)}
    (folder / f"rank{rank}.json").write_text(json.dumps(said))
    ranks.stop()


def _same(got: list[Packed], right: dict[str, torch.Tensor]) -> bool:
    """Whether all came, and as they were."""
    parts = [(packed.memory, part) for packed in got for part in packed.parts]
    same = [torch.equal(memory[part.start : part.end].view(torch.bfloat16), right[part.name]) for memory, part in parts]
    return all(same) and sorted(part.name for _, part in parts) == sorted(right)


def _bytes() -> dict[str, int]:
    """That have crossed this host's link."""
    counters = Path("/sys/class/net/eth0/statistics")
    return {way: int((counters / f"{short}_bytes").read_text()) for way, short in (("sent", "tx"), ("received", "rx"))}


if __name__ == "__main__":
    main()
