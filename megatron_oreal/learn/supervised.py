"""The supervised step: the policy alone, on the same engine as the OREAL step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_oreal.config import SftConfig
from megatron_oreal.learn import batch
from megatron_oreal.learn.batch import MicroBatch
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.learn.sums import last_stage_total
from megatron_oreal.trajectory import Sample


class SupervisedLearner:
    """Cross-entropy on response tokens, averaged over the response tokens of the whole batch."""

    def __init__(self, config: SftConfig, ranks: Ranks):
        self.config, self.ranks = config, ranks
        self.models = Models(config.model, config.parallel, config.compute, ranks)
        self.policy = Trainable(self.models.build("policy"), config.optimizer, config.steps)

    def train(self, samples: Sequence[Sample]) -> dict[str, float]:
        """One optimizer step; metrics are the same on every rank."""
        tokens = sum(len(s.response_ids) for s in samples)
        micro_batches = batch.of_rank(
            samples,
            self.ranks,
            self.config.parallel,
            self.config.learn.tokens_per_micro_batch,
            self.models.cost,
            self.models.compute.tokens_multiple,
            score_position="previous",
        )

        def loss(micro: MicroBatch, output: Tensor):
            value = -output[0].sum() / tokens
            return value, value.detach()

        values = self.policy.backward(micro_batches, "logprobs", loss)
        self.policy.tick()
        norm = self.policy.update()
        total = last_stage_total([sum(float(v) for v in values)], self.ranks)[0]
        return {"loss/sft": total, "grad_norm/policy": norm, "lr/policy": self.policy.lr, "sft/tokens": tokens}


def example(prompt_ids: list[int], response_ids: list[int]) -> Sample:
    """A supervised example in the form the batches take."""
    return Sample("", prompt_ids, response_ids, reward=1, advantage=0.0, pass_rate=1.0, version=0)


def epochs(count: int, seed: int, take: int):
    """Endless draws of `take` indices, each epoch shuffled anew."""
    generator, order = torch.Generator().manual_seed(seed), []
    while True:
        while len(order) < take:
            order += torch.randperm(count, generator=generator).tolist()
        yield order[:take]
        order = order[take:]
