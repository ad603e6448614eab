"""Each trial as a test; `python -m tests.trials` prints them as a table."""

import pytest

from tests.trials.__main__ import TRIALS
from tests.trials.runner import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_trial(trial, tmp_path_factory):
    outcome = run(trial, tmp_path_factory.getbasetemp() / "trials")
    print(outcome)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.wrong, f"{outcome.wrong}\n{outcome.log.read_text(errors='replace')[-4000:]}"


def test_no_two_trials_share_a_folder():
    folders = [trial.folder for trial in TRIALS]
    assert len(set(folders)) == len(folders)
