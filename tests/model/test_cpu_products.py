"""Float32 products by oneDNN: the numbers of float64, forward and backward, in whatever form torch asks for them."""

import pytest
import torch
from torch.nn.functional import linear

from megatron_oreal.model import cpu_products

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the shim does nothing where CUDA is")
SIZES = [(3, 5, 7), (1, 900, 5000), (220, 300, 400), (64, 0, 8)]
"""Of [n, k] @ [k, m]: left to torch, and taken over."""


@pytest.fixture(scope="module", autouse=True)
def installed():
    cpu_products.install()


def close(got: torch.Tensor, exact: torch.Tensor) -> None:
    assert got.shape == exact.shape and got.is_contiguous()
    torch.testing.assert_close(got.detach().double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n, k, m", SIZES)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_and_their_gradients_are_those_of_float64(n, k, m, transposed):
    generator = torch.Generator().manual_seed(1)
    x, bias = torch.randn(n, k, generator=generator), torch.randn(m, generator=generator)
    weight = torch.randn(k, m, generator=generator).t() if transposed else torch.randn(m, k, generator=generator)
    single, double = ([t.to(kind, copy=True).requires_grad_() for t in (x, weight, bias)] for kind in (torch.float32, torch.float64))
    close(torch.mm(x, weight.t()), torch.mm(x.double(), weight.double().t()))
    outputs = [linear(*tensors) for tensors in (single, double)]
    close(outputs[0], outputs[1].detach())
    for output in outputs:
        output.square().sum().mul(1e-3).backward()
    for got, exact in zip(single, double, strict=True):
        torch.testing.assert_close(got.grad.double(), exact.grad, rtol=1e-3, atol=1e-3)


def test_other_forms_are_left_to_torch():
    left, right, bias = torch.randn(200, 300), torch.randn(300, 200), torch.randn(200, 200)
    close(torch.addmm(bias, left, right, beta=0.5, alpha=2), 0.5 * bias.double() + 2 * left.double() @ right.double())
    assert torch.mm(left.bfloat16(), right.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied|must have same reduction dim"):
        torch.mm(left, left)
