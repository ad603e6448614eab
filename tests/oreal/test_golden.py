"""The objective against golden vectors (see vectors.py): values and gradients to 1e-9 in float64, for every *.npz of --golden-dir."""

import torch
from torch import Tensor

from megatron_oreal.oreal.advantage import advantages
from megatron_oreal.oreal.losses import policy_loss, token_rm_loss
from megatron_oreal.oreal.objective import Counts
from megatron_oreal.oreal.token_weights import token_weights
from tests.oreal.vectors import CLOSE, Golden


def golden_counts(golden: Golden) -> Counts:
    return Counts.from_rewards(golden["rewards"].tolist(), golden.lengths)


def golden_weights(golden: Golden):
    if not golden.objective.token_rm:
        return None
    return token_weights(golden["rm_scores"][golden.score_index], golden.lengths, golden.objective)


def golden_logprobs(golden: Golden, logits: Tensor) -> Tensor:
    rows = torch.log_softmax(logits, -1)[golden.token_index - 1]
    return rows.gather(-1, golden["tokens"][golden.token_index, None]).squeeze(-1)


def test_golden_advantages(golden: Golden):
    everything = advantages(golden["all_rewards"].view(-1, int(golden["k"])), golden.objective.advantage).flatten()
    torch.testing.assert_close(everything, golden["all_advantages"], **CLOSE)
    torch.testing.assert_close(everything[golden["kept"]], golden["advantages"], **CLOSE)


def test_golden_token_weights(golden: Golden):
    weights = golden_weights(golden)
    if weights is None:
        assert bool((golden["weight_pos"] == 1).all() and (golden["weight_neg"] == 1).all())
        return
    torch.testing.assert_close(weights.positive, golden["weight_pos"], **CLOSE)
    torch.testing.assert_close(weights.negative, golden["weight_neg"], **CLOSE)


def test_golden_policy_loss(golden: Golden):
    logits = golden["logits"].clone().requires_grad_()
    loss = policy_loss(
        golden_logprobs(golden, logits),
        golden_logprobs(golden, golden["ref_logits"]),
        golden_weights(golden),
        golden.lengths,
        golden["rewards"],
        golden["advantages"],
        golden["pass_rate"],
        golden_counts(golden),
        golden.objective,
    )
    loss.total.backward()
    for part in ("positive", "negative", "kl", "total"):
        torch.testing.assert_close(getattr(loss, part).detach(), golden[f"loss_{part}"], **CLOSE)
    torch.testing.assert_close(logits.grad, golden["grad_logits"], **CLOSE)


def test_golden_token_rm_loss(golden: Golden):
    if not golden.objective.token_rm:
        assert bool(golden["loss_token_rm"].isnan())
        return
    scores = golden["rm_scores"].clone().requires_grad_()
    loss = token_rm_loss(scores[golden.score_index], golden.lengths, golden["rewards"], golden_counts(golden))
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden["loss_token_rm"], **CLOSE)
    torch.testing.assert_close(scores.grad, golden["grad_rm"], **CLOSE)
