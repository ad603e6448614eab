"""The supervised step: the policy alone, on the same engine as the OREAL step."""

from pathlib import Path

from torch import Tensor

from megatron_oreal.config import SftConfig
from megatron_oreal.learn import batch
from megatron_oreal.learn.batch import MicroBatch
from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models, StepResult
from megatron_oreal.learn.sums import last_stage_total
from megatron_oreal.trajectory import TrainBatch


class SupervisedLearner:
    """Cross-entropy on response tokens, averaged over the response tokens of the whole batch."""

    token_rm = None  # as of a Learner that has none

    def __init__(self, config: SftConfig, ranks: Ranks):
        self.config, self.ranks = config, ranks
        self.models = Models(config.model, config.parallel, config.compute, ranks)
        self.policy = Trainable(self.models.build("policy"), config.optimizer, config.steps, config.learn)
        self.cost = StepCost.of(self.models.hf, self.models.cost, token_rm=False, reference=False)

    def rest_between_turns(self) -> None:
        """As compute.offload has it, its memory is there while it trains alone; it rests now."""
        if self.config.compute.offload != "none":
            self.policy.rest_between_turns(self.config.compute.offload, self.ranks.platform, Path(self.config.run_dir), keep_weights=True)

    def train(self, train_batch: TrainBatch, step: int) -> StepResult:
        """One optimizer step, number `step` from 1; metrics are the same on every rank."""
        self.ranks.enter("policy")
        tokens = sum(len(s.response_ids) for s in train_batch.samples)
        micro_batches = batch.of_rank(
            train_batch.samples,
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

        with self.policy.turn():
            values = self.policy.backward(micro_batches, "logprobs", loss)
            self.ranks.enter("optimizer")
            self.policy.go_to(step)
            norm = self.policy.update()
        total = last_stage_total([sum(float(v) for v in values)], self.ranks)[0]
        return StepResult({"loss/sft": total, "grad_norm/policy": norm, "lr/policy": self.policy.lr, "sft/tokens": tokens}, True)
