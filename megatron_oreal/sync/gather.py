"""Gather: the tensors of all ranks of a pipeline stage, whole and under their Hugging Face names, bucket by bucket."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Bucket = Sequence[tuple[str, Tensor]]
"""Names and tensors that travel together, up to rollout.sync_bucket_mb."""


def buckets(tensors: Iterable[tuple[str, Tensor]], size: int) -> Iterable[Bucket]:
    """Tensors gathered up to `size` bytes; a larger one travels alone."""
    bucket, filled = [], 0
    for name, tensor in tensors:
        if bucket and filled + tensor.nbytes > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, tensor))
        filled += tensor.nbytes
    if bucket:
        yield bucket


def flattened(bucket: Bucket) -> Tensor:
    """[bytes of all] uint8."""
    return torch.cat([t.contiguous().flatten().view(torch.uint8) for _, t in bucket])
