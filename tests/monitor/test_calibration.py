"""AUC, Brier score and calibration error on cases worked out by hand."""

import pytest
import torch

from megatron_oreal.monitor.calibration import auc, calibration_metrics, expected_calibration_error


def test_auc_counts_pairs_and_halves_ties():
    right = torch.tensor([True, True, False, False, False])
    assert auc(torch.tensor([2.0, 0.0, 1.0, 0.0, -1.0]), right) == pytest.approx((3 + 1.5) / 6)
    assert auc(torch.tensor([0.3] * 5), right) == 0.5
    assert auc(torch.tensor([-5.0, -4.0, 0.0, 1.0, 2.0]), right) == 0
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2000, generator=generator)
    noisy = scores + torch.randn(2000, generator=generator) > 0
    pairs = scores[noisy][:, None] - scores[~noisy][None]
    assert auc(scores, noisy) == pytest.approx((pairs > 0).double().mean().item(), abs=1e-12)


def test_where_all_are_right_there_is_no_auc():
    metrics = calibration_metrics(torch.tensor([0.0, 0.0]), torch.tensor([True, True]))
    assert metrics == {"token_rm/brier": 0.25, "token_rm/calibration_error": 0.5}
    assert calibration_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == {}


def test_calibration_error_weighs_each_bin_by_what_is_in_it():
    """0.92 and 0.88 lie in two bins, 0.95 and 0.91 in one, where surplus and lack offset each other; a 1 is in the last bin."""
    probabilities = torch.tensor([0.92, 0.88, 0.25, 0.25])
    assert expected_calibration_error(probabilities, torch.tensor([True, False, False, False])) == pytest.approx((0.08 + 0.88 + 0.5) / 4)
    assert expected_calibration_error(torch.tensor([0.95, 0.91]), torch.tensor([True, False])) == pytest.approx(0.86 / 2)
    assert expected_calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0
