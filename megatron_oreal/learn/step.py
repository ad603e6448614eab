"""The OREAL step on Megatron ranks: token RM, reference, policy, with exactly the functions of `oreal/`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn import batch
from megatron_oreal.learn.batch import MicroBatch
from megatron_oreal.learn.config import ParallelConfig
from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.packing import Cost
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.reference import Reference
from megatron_oreal.learn.sums import Sums
from megatron_oreal.model import gpt, hf_weights
from megatron_oreal.model.blueprint import dims_of
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.config import ComputeConfig, ModelConfig
from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.oreal.losses import policy_loss, token_rm_loss
from megatron_oreal.oreal.mismatch import difference, importance_weights, mismatch
from megatron_oreal.oreal.objective import Counts
from megatron_oreal.oreal.token_weights import TokenWeights, token_weights
from megatron_oreal.trajectory import RIGHT, Sample, TrainBatch


@dataclass(frozen=True)
class StepResult:
    """What a step did, the same on every rank; names as in metrics.jsonl."""

    metrics: dict[str, float] = field(default_factory=dict)
    policy_changed: bool = False
    token_weights: list[list[float]] | None = None  # [samples][response tokens], as used; only with `record` and a token RM


@dataclass(frozen=True)
class Start:
    """What all models of a run start from."""

    hf: object  # transformers config
    source: hf_weights.TensorSource

    @classmethod
    def of_folder(cls, path: str) -> "Start":
        """A Hugging Face folder."""
        return cls(AutoConfig.from_pretrained(path), HFFolder(path))


class Models:
    """Builds the run's models from one start, all in the same layout."""

    def __init__(self, model: ModelConfig, parallel: ParallelConfig, compute: ComputeConfig, ranks: Ranks, start: Start | None = None):
        """`start`: None: the folder model.path. Raises ValueError where `compute` asks for what is not there."""
        start = start or Start.of_folder(model.path)
        self.hf, self.source = start.hf, start.source
        self.dims = dims_of(self.hf)
        self.cost = Cost.of(self.hf, gpt.head_dim(self.hf))
        self._parallel = parallel
        self.compute = Compute.find(compute, model.dtype, ranks.platform)
        self.compute.install()

    def build(self, role: gpt.Role):
        """A model of this role with the start's weights."""
        model = gpt.build(self.hf, role, self._parallel, self.compute)
        hf_weights.load(model, self.source, self.dims)
        return model


class Learner:
    """Policy, token RM and reference, and the one verb that trains them on a batch."""

    def __init__(self, config: TrainConfig, ranks: Ranks, start: Start | None = None):
        """`start`: as of Models."""
        self.config, self.objective, self.ranks = config, config.objective, ranks
        self.models = Models(config.model, config.parallel, config.compute, ranks, start)
        self.policy = Trainable(self.models.build("policy"), config.policy.optimizer, config.policy.scheduled(config.steps), config.learn)
        self.token_rm = None
        if self.objective.token_rm:
            self.token_rm = Trainable(self.models.build("token_rm"), config.token_rm.optimizer, config.steps, config.learn)
        self.reference = Reference(self.models.build("policy"), ranks, Path(config.run_dir)) if self.objective.beta else None
        self.cost = StepCost.of(self.models.hf, self.models.cost, self.objective.token_rm, bool(self.objective.beta))

    def rest_between_turns(self) -> None:
        """As compute.offload has it: what is trained, and the reference, take their memory when it is their turn, and all rest now.

        The policy's weights stay, which are published and exported between steps.
        """
        how, place = self.config.compute.offload, (self.ranks.platform, Path(self.config.run_dir))
        if how != "none":
            self.policy.rest_between_turns(how, *place, keep_weights=True)
            if self.token_rm:
                self.token_rm.rest_between_turns(how, *place, keep_weights=False)
        if how == "all" and self.reference:
            self.reference.rest_between_turns()

    def train(self, train_batch: TrainBatch, step: int) -> StepResult:
        """One optimizer step of the token RM, and of the policy unless it is frozen at this step (counted from 1)."""
        counts = Counts.from_rewards([s.reward for s in train_batch.samples], [len(s.response_ids) for s in train_batch.samples])
        micro_batches = batch.of_rank(
            train_batch.samples,
            self.ranks,
            self.config.parallel,
            self.config.learn.tokens_per_micro_batch,
            self.models.cost,
            self.models.compute.tokens_multiple,
            self.objective.score_position,
        )
        frozen = self.token_rm is not None and step <= self.config.policy.freeze_steps
        sums, weights, recorded = Sums(max((s.version for s in train_batch.samples), default=0)), None, None
        if self.token_rm:
            self.ranks.enter("token_rm")
            with self.token_rm.turn():
                weights = self._train_token_rm(micro_batches, step, counts, sums)
            if self.config.record:
                recorded = weights_of_batch(train_batch.samples, micro_batches, weights, self.ranks)
        if not frozen:
            self.ranks.enter("reference")
            ref_logprobs = self._reference_logprobs(micro_batches)
            self.ranks.enter("policy")
            with self.policy.turn():
                self._train_policy(micro_batches, self.config.policy.scheduled(step), counts, weights, ref_logprobs, sums)
        metrics = sums.local
        if self.token_rm:
            metrics |= sums.token_rm_metrics(self.ranks, counts)
        if not frozen:
            metrics |= sums.policy_metrics(self.ranks, counts)
        return StepResult(metrics, not frozen, recorded)

    def _train_token_rm(self, micro_batches: list[MicroBatch], step: int, counts: Counts, sums: Sums) -> list[TokenWeights]:
        """Backward and update; returns the token weights of its scores before the update, one a micro-batch (last stage)."""

        def loss(micro: MicroBatch, scores: Tensor):
            value = token_rm_loss(scores, micro.lengths, micro.rewards, counts)
            weights = token_weights(scores, micro.lengths, self.objective)
            sums.add(token_rm=value.detach())
            sums.add_scores(_means(scores.detach(), micro.lengths), micro.rewards)
            sums.add_weights(weights, _per_token(micro.rewards == RIGHT, micro.lengths))
            return value, weights

        weights = self.token_rm.backward(micro_batches, "scores", loss)
        self.ranks.enter("optimizer")
        self.token_rm.go_to(step)
        sums.local |= {"grad_norm/token_rm": self.token_rm.update(), "lr/token_rm": self.token_rm.lr}
        return weights

    def _reference_logprobs(self, micro_batches: list[MicroBatch]) -> list[Tensor | None]:
        """Log-probabilities [R] of the frozen starting model, one tensor a micro-batch (last stage); None where beta is 0."""
        return self.reference.logprobs(micro_batches) if self.reference else [None] * len(micro_batches)

    def _train_policy(self, micro_batches, step: int, counts: Counts, weights, ref_logprobs, sums: Sums) -> None:
        """Backward and update of the policy under the token weights; `step` of its schedule."""

        def loss(micro: MicroBatch, output: Tensor):
            logprobs, entropy, cap = output[0], output[1].detach(), self.objective.importance_cap
            apart = mismatch(logprobs, micro.rollout_logprobs, cap)
            sums.add(known=apart.tokens, difference=apart.difference, mismatch=apart.kl, capped=apart.capped)
            sums.largest(difference=apart.largest)
            sums.add_ages(difference(logprobs, micro.rollout_logprobs).abs(), micro.rollout_versions)
            parts = policy_loss(
                logprobs,
                ref_logprobs[micro.index],
                weights[micro.index] if weights else None,
                micro.lengths,
                micro.rewards,
                micro.advantages,
                micro.pass_rates,
                counts,
                self.objective,
                None if cap is None else importance_weights(logprobs, micro.rollout_logprobs, cap),
            )
            sums.add(total=parts.total.detach(), positive=parts.positive, negative=parts.negative, kl=parts.kl, entropy=entropy.sum())
            return parts.total, None

        self.policy.backward(micro_batches, "logprobs", loss)
        self.ranks.enter("optimizer")
        self.policy.go_to(step)
        sums.local |= {"grad_norm/policy": self.policy.update(), "lr/policy": self.policy.lr}


def _per_token(values: Tensor, lengths: list[int]) -> Tensor:
    return values.repeat_interleave(torch.tensor(lengths, dtype=torch.long, device=values.device))


def _means(scores: Tensor, lengths: list[int]) -> Tensor:
    """Each trajectory's mean score: [n]."""
    return torch.stack([part.mean() for part in scores.split(lengths)]) if lengths else scores[:0]


def weights_of_batch(
    samples: Sequence[Sample], micro_batches: Sequence[MicroBatch], weights: Sequence[TokenWeights], ranks: Ranks
) -> list[list[float]]:
    """The token weights of a global batch, on every rank: for each sample those of its response tokens that its reward picks.

    `weights`: one a micro-batch of this rank, on the last stage, where context-parallel ranks have joined their parts already.
    """
    lengths = [len(s.response_ids) for s in samples]
    total = torch.zeros(sum(lengths))
    parts = total.split(lengths)  # views: each sample's part is filled in by one rank
    for micro, of_micro in zip(micro_batches, weights, strict=True) if ranks.reports else ():
        used = torch.where(_per_token(micro.rewards == RIGHT, micro.lengths), of_micro.positive, of_micro.negative)
        for place, values in zip(micro.members, used.float().cpu().split(micro.lengths) if micro.lengths else (), strict=True):
            parts[place].copy_(values)
    return [values.tolist() for values in ranks.total(total).split(lengths)]
