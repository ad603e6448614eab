"""CPU shim: matrix products in float32 by oneDNN. Does nothing where CUDA is.

Torch gives them to MKL, which on processors not of Intel's make leaves out AVX-512: oneDNN, which torch carries as well and takes for
bfloat16, is twice as fast there (2.5 times for the few rows of a decode step; Zen 5, two cores, tools/bench_real.py).
"""

import warnings

import torch
from torch import Tensor

LEAST_WORK = 1 << 22
"""Multiplications of a product below which finding the kernel takes longer than computing it."""

_ONE_DNN = torch.ops.mkldnn._linear_pointwise
_REGISTRATIONS: list[torch.library.Library] = []  # kept as long as the process: torch undoes a registration with its object


def install() -> None:
    """Install the shim once a process. A second call changes nothing."""
    if torch.cuda.is_available() or not torch.backends.mkldnn.is_available() or _REGISTRATIONS:
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Warning only once for all operators")
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    _REGISTRATIONS.append(library)


def _mm(left: Tensor, right: Tensor) -> Tensor:
    """[n, k] @ [k, m]."""
    if _pays(left, right):
        return _ONE_DNN(left, right.t(), None, "none", [], "")
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[1]))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta=1, alpha=1) -> Tensor:
    if beta == alpha == 1 and bias.dim() == 1 and len(bias) == right.shape[1] and _pays(left, right):
        return _ONE_DNN(left, right.t(), bias, "none", [], "")
    return torch.addmm(bias, left, right, beta=beta, alpha=alpha, out=left.new_empty(left.shape[0], right.shape[1]))


def _pays(left: Tensor, right: Tensor) -> bool:
    """Whether it is a product in float32 at all, and large; torch refuses one whose shapes do not fit."""
    fits = left.dtype == right.dtype == torch.float32 and left.shape[1] == right.shape[0]
    return fits and left.shape[0] * right.shape[0] * right.shape[1] >= LEAST_WORK
