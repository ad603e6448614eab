"""What transformers says, float32, of answers that an engine gave."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from megatron_oreal.trajectory import Trajectory

CLOSE = 2e-3
"""Between log-probabilities of two float32 implementations over 24 layers."""


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def table(model: PreTrainedModel, answer: Trajectory) -> Tensor:
    """[response tokens, vocab] log-probabilities."""
    prompt = answer.prompt.token_ids
    logits = model(torch.tensor([prompt + answer.token_ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


def of_tokens(logprobs: Tensor, answer: Trajectory) -> Tensor:
    """[response tokens] of the tokens that were said."""
    return logprobs.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0]


def logprobs_of(folder: Path, answers: Sequence[Trajectory]) -> Tensor:
    """[tokens of all responses, one after the other]"""
    model = load(folder)
    return torch.cat([of_tokens(table(model, answer), answer) for answer in answers])
