"""How far trainer and engine are apart, told by how many versions old a token is."""

from types import SimpleNamespace

import pytest
import torch

from megatron_oreal.learn.batch import pack
from megatron_oreal.learn.sums import Sums
from megatron_oreal.model.split import Split
from megatron_oreal.oreal.mismatch import difference
from megatron_oreal.trajectory import Sample, Span

ALONE = SimpleNamespace(reports=True, total=lambda values: values, largest=lambda values: values)


def by_age(samples: list[Sample], apart: list[float]) -> dict[str, float]:
    """Where the trainer finds each token this much more likely than its engine."""
    micro = pack(samples, 0, Split(), "previous", torch.device("cpu"))
    sums = Sums(max(s.version for s in samples))
    logprobs = micro.rollout_logprobs + torch.tensor(apart)
    sums.add(known=torch.tensor(len(apart)))
    sums.add_ages(difference(logprobs, micro.rollout_logprobs).abs(), micro.rollout_versions)
    return {name: value for name, value in sums._mismatch_metrics(ALONE).items() if "age" in name}


def test_each_token_counts_for_the_version_that_sampled_it():
    old = Sample("a", [1], [2, 3, 4, 5], 1, 0.5, 0.5, 9, [-1.0] * 4, earlier=[Span(2, 1), Span(8, 2)])  # 7 and more are one, 1, 1, 0
    new = Sample("b", [1], [2, 3], -1, -0.5, 0.5, 9, [-1.0] * 2)
    unknown = Sample("c", [1], [2], -1, -0.5, 0.5, 3)
    assert by_age([old, new, unknown], [8.0, 2.0, -4.0, 0.5, 1.0, 1.5, 99.0]) == pytest.approx(
        {"logprob/diff_mean_age0": 1.0, "logprob/diff_mean_age1": 3.0, "logprob/diff_mean_age4": 8.0}
    )


def test_nothing_is_said_where_all_are_of_one_version():
    assert by_age([Sample("b", [1], [2, 3], -1, -0.5, 0.5, 9, [-1.0] * 2)], [1.0, 1.0]) == {}
