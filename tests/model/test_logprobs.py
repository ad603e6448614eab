"""Chunked vocabulary-parallel log-probabilities and entropy against the dense computation, values and gradients."""

import pytest
import torch
import torch.distributed as dist

from megatron_oreal.model.logprobs import vocab_parallel_logprobs

TOKENS, HIDDEN, VOCAB = 37, 16, 101


def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    upstream = torch.randn(TOKENS, generator=generator)
    return hidden, weight, targets, upstream


def on_ranks(chunk: int):
    """This rank's log-probabilities, entropy, hidden gradient (summed over TP, as the model does) and weight gradient."""
    dist.init_process_group("gloo")
    hidden, weight, targets, upstream = inputs()
    rows = -(-VOCAB // dist.get_world_size())
    padded = torch.nn.functional.pad(weight, (0, 0, 0, rows * dist.get_world_size() - VOCAB), value=7.0)
    local = padded[dist.get_rank() * rows :][:rows].clone().requires_grad_()
    hidden.requires_grad_()
    logprobs, entropy = vocab_parallel_logprobs(hidden, local, targets, dist.group.WORLD, VOCAB, chunk)
    logprobs.backward(upstream)
    dist.all_reduce(hidden.grad)
    dist.destroy_process_group()
    return [t.detach().numpy() for t in (logprobs, entropy, hidden.grad, local.grad)]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("chunk", [5, 64])
def test_values_and_gradients_equal_the_dense_ones(ranks, world, chunk):
    hidden, weight, targets, upstream = (t.double() if t.is_floating_point() else t for t in inputs())
    hidden.requires_grad_(), weight.requires_grad_()
    dense = (hidden @ weight.t()).log_softmax(-1)
    expected = dense.gather(1, targets[:, None])[:, 0]
    expected.backward(upstream)
    entropy = -(dense.exp() * dense).sum(-1).detach()
    results = ranks(world, on_ranks, chunk)
    weight_grad = torch.cat([torch.from_numpy(r[3]) for r in results])
    for got_logprobs, got_entropy, got_hidden, _ in results:
        torch.testing.assert_close(torch.from_numpy(got_logprobs), expected.detach().float(), rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(torch.from_numpy(got_entropy), entropy.float(), rtol=1e-5, atol=2e-6)
        assert _distance(torch.from_numpy(got_hidden), hidden.grad) <= 1e-6
    assert _distance(weight_grad[:VOCAB], weight.grad) <= 1e-6
    assert not weight_grad[VOCAB:].any()


def _distance(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two gradients, relative to the expected one's norm."""
    return float((got - expected).norm() / expected.norm())
