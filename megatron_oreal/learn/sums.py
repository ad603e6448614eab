"""What a step reports, added up over micro-batches and ranks: each sum is divided once, by its count over the whole global batch."""

from math import sqrt

import torch
from torch import Tensor

from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.monitor.calibration import calibration_metrics
from megatron_oreal.oreal.objective import Counts
from megatron_oreal.oreal.token_weights import TokenWeights

# What the last stage adds up -> (name in metrics.jsonl, the count over the global batch that divides it).
TOKEN_RM_METRICS = {
    "token_rm": ("loss/token_rm", None),
    "agree": ("token_rm/accuracy", "trajectories"),
    "weight_right": ("token_weight/positive", "right_tokens"),
    "weight_wrong": ("token_weight/negative", "wrong_tokens"),
    "weight_zero": ("token_weight/share_zero", "tokens"),
    "weight_one": ("token_weight/share_one", "tokens"),
}
POLICY_METRICS = {
    "total": ("loss/total", None),
    "positive": ("loss/positive", None),
    "negative": ("loss/negative", None),
    "kl": ("loss/kl", None),
    "entropy": ("policy/entropy", "tokens"),
}
# Of the response tokens whose engine log-probability is known, divided by their number.
MISMATCH_METRICS = {"difference": "logprob/diff_mean", "mismatch": "logprob/kl", "capped": "logprob/capped_share"}
AGES = 5
"""Told apart, in versions between a token and the newest of the batch: 0, 1, ... and all that are older."""


class Sums:
    """Adds up what the last stage's micro-batches report. Reducing is collective over all ranks, which all get the metrics."""

    def __init__(self, newest: int = 0):
        """`newest`: version of the policy that sampled last for the batch."""
        self._newest = newest
        self.local: dict[str, float] = {}  # values that every rank already agrees on
        self._values: dict[str, Tensor | float] = {}
        self._largest: dict[str, Tensor] = {}
        self._scores: list[Tensor] = []  # [n, 2] of a micro-batch's trajectories: token RM score, reward

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._values[name] = self._values.get(name, 0.0) + value

    def largest(self, **values: Tensor) -> None:
        """Keep the largest of each, none of which is negative."""
        for name, value in values.items():
            self._largest[name] = torch.maximum(self._largest[name], value) if name in self._largest else value

    def add_ages(self, differences: Tensor, versions: Tensor) -> None:
        """|d| [R] of a micro-batch's response tokens, see oreal.mismatch, NaN where it is not known; and of which versions they are."""
        known = ~differences.isnan()
        place = (self._newest - versions[known]).clamp(0, AGES - 1)
        empty = torch.zeros(AGES, dtype=torch.float64, device=versions.device)
        self.add(of_age=empty.index_add(0, place, differences[known].double()), at_age=empty + place.bincount(minlength=AGES))

    def add_scores(self, scores: Tensor, rewards: Tensor) -> None:
        """The token RM's scores [n] of a micro-batch's trajectories, and their rewards [n]."""
        self.add(agree=((scores > 0) == (rewards > 0)).sum())
        self._scores.append(torch.stack([scores.float(), rewards.float()], dim=1))

    def add_weights(self, weights: TokenWeights, right: Tensor) -> None:
        """Token weights of a micro-batch; right [R]: which of its response tokens are a right trajectory's."""
        used = torch.where(right, weights.positive, weights.negative)
        self.add(
            weight_right=(used * right).sum(),
            weight_wrong=(used * ~right).sum(),
            weight_squared=used.square().sum(),
            weight_zero=(used == 0).sum(),
            weight_one=(used == 1).sum(),
        )
        if len(used):
            self.largest(weight=used.max())

    def token_rm_metrics(self, ranks: Ranks, counts: Counts) -> dict[str, float]:
        """Of the token RM and its weights."""
        rows = torch.cat([torch.zeros(0, 2), *(s.cpu() for s in self._scores)]) if ranks.reports else torch.zeros(0, 2)
        scores, rewards = ranks.rows(rows).T
        metrics = self._divided(ranks, counts, TOKEN_RM_METRICS) | self._weight_metrics(ranks, counts)
        return metrics | calibration_metrics(scores, rewards > 0)

    def policy_metrics(self, ranks: Ranks, counts: Counts) -> dict[str, float]:
        """Of the policy, and of trainer against engine."""
        return self._divided(ranks, counts, POLICY_METRICS) | self._mismatch_metrics(ranks)

    def _divided(self, ranks: Ranks, counts: Counts, names: dict[str, tuple[str, str | None]]) -> dict[str, float]:
        totals = self._totals(ranks, *names)
        per = [max(getattr(counts, count), 1) if count else 1 for _, count in names.values()]
        return {metric: total / n for (metric, _), total, n in zip(names.values(), totals, per, strict=True)}

    def _weight_metrics(self, ranks: Ranks, counts: Counts) -> dict[str, float]:
        """Of the weights in use, over all response tokens. `effective`: the share of tokens that, weighted alike, would be as many."""
        right, wrong, squared = self._totals(ranks, "weight_right", "weight_wrong", "weight_squared")
        tokens = max(counts.tokens, 1)
        mean = (right + wrong) / tokens
        return {
            "token_weight/mean": mean,
            "token_weight/std": sqrt(max(squared / tokens - mean * mean, 0.0)),
            "token_weight/max": self._overall(ranks, "weight"),
            "token_weight/effective": (right + wrong) ** 2 / (squared * tokens) if squared else 0.0,
        }

    def _mismatch_metrics(self, ranks: Ranks) -> dict[str, float]:
        """None where no token's engine log-probability is known."""
        known, *totals = self._totals(ranks, "known", *MISMATCH_METRICS)
        largest = self._overall(ranks, "difference")
        if not known:
            return {}
        mean = {metric: total / known for metric, total in zip(MISMATCH_METRICS.values(), totals, strict=True)}
        return mean | {"logprob/diff_max": largest} | self._by_age(ranks)

    def _by_age(self, ranks: Ranks) -> dict[str, float]:
        """Where tokens of older versions are among them."""
        none = torch.zeros(AGES, dtype=torch.float64)
        mine = torch.stack([torch.as_tensor(self._values.get(name, none)).cpu() for name in ("of_age", "at_age")])
        differences, tokens = ranks.total(mine if ranks.reports else torch.zeros_like(mine)).tolist()
        ages = [age for age in range(AGES) if tokens[age]]
        return {f"logprob/diff_mean_age{age}": differences[age] / tokens[age] for age in ages} if ages[-1:] > [0] else {}

    def _totals(self, ranks: Ranks, *names: str) -> list[float]:
        return last_stage_total([float(self._values.get(name, 0.0)) for name in names], ranks)

    def _overall(self, ranks: Ranks, name: str) -> float:
        return float(ranks.largest(torch.tensor([float(self._largest.get(name, 0.0))], dtype=torch.float64)))


def last_stage_total(values: list[float], ranks: Ranks) -> list[float]:
    """Sums over the data-parallel ranks of what the last stage knows, on every rank."""
    mine = torch.tensor(values, dtype=torch.float64)
    return ranks.total(mine if ranks.reports else torch.zeros_like(mine)).tolist()
