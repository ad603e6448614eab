"""Whole runs of experiment=small on a pretrained model: one without token RM that is killed and resumed, one with it."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.monitor.recorded import FOLDER, file_of, read_step
from megatron_oreal.report import command as report
from megatron_oreal.trajectory import Trajectory
from tests import runs
from tests.real.plain import CLOSE, logprobs_of

pytestmark = pytest.mark.real
STEPS = 4
SMALL = [
    "data.questions_per_step=2",
    "rollout.samples=2",
    "rollout.max_new_tokens=32",
    "rollout.max_total_tokens=384",
    "rollout.deterministic=true",
    "rollout.concurrency=1",
    "objective.negative_scale=one_minus_pass_rate",  # of four answers of 32 tokens none may be right: wrong ones alone teach then
    "policy.optimizer.lr=1e-5",  # in each step, so that each is seen in the log-probabilities
    "policy.optimizer.min_lr=1e-5",
    "policy.optimizer.warmup_steps=0",
    "record=true",
]
SAVING = [f"steps={STEPS}", "checkpoint.interval=2", "checkpoint.hf_interval=3"]
TOKEN_RM = ["steps=3", "objective.token_rm=true", "token_rm.optimizer.warmup_steps=0", "policy.freeze_steps=1"]
DEADLINE_S = 1200
PARTS = ("rollout", "token_rm", "reference", "policy", "optimizer", "sync", "evaluate", "checkpoint_wait")


@pytest.fixture(scope="module")
def start(real_model, questions):
    """start(run_dir, *overrides) -> a run."""
    given = [f"model.path={real_model}", f"data.train={questions(8)}"]
    return lambda run_dir, *overrides: runs.Run(run_dir, "experiment=small", *given, *SMALL, *overrides, deadline_s=DEADLINE_S)


def answers_of(run_dir: Path, step: int) -> list[Trajectory]:
    """What the engine sampled for this step."""
    return [t for group in read_step(run_dir / FOLDER, step) for t in group.trajectories]


@dataclass(frozen=True)
class Killed:
    """What a run left that was killed in the middle of its last step, whose answers were sampled by then."""

    run_dir: Path
    metrics: dict[int, dict]
    answers: list[Trajectory]  # of the last step


@pytest.fixture(scope="module")
def killed(start, scratch) -> Killed:
    run_dir = scratch("run")
    run = start(run_dir, *SAVING)
    run.wait_for(file_of(run_dir / FOLDER, STEPS).exists)
    run.kill()
    return Killed(run_dir, run.metrics(), answers_of(run_dir, STEPS))


@pytest.fixture(scope="module")
def resumed(killed, start) -> runs.Run:
    """The same run to its end."""
    run = start(killed.run_dir, *SAVING, "resume=auto")
    output = run.finish()
    assert run.process.returncode == 0, output
    assert "resumed after step 2" in output
    return run


@pytest.fixture(scope="module")
def with_token_rm(resumed, start, scratch) -> runs.Run:
    """After the other one: there is no memory for both."""
    run = start(scratch("token_rm"), *TOKEN_RM)
    output = run.finish()
    assert run.process.returncode == 0, output
    return run


def steps_of(run: runs.Run) -> list[dict]:
    """Rows of metrics.jsonl."""
    return [row for row in runs.metrics_of(run.run_dir) if row["step"]]


@pytest.fixture(params=["resumed", "with_token_rm"])
def run(request) -> runs.Run:
    """Each of the two."""
    return request.getfixturevalue(request.param)


def test_resumed_it_does_what_the_killed_one_did(killed, resumed):
    """Step 3 again bit for bit, and step 4's answers, which show what step 3 and the optimizer's state did to the weights."""
    metrics = resumed.metrics()
    assert list(killed.metrics) == [1, 2, 3] and list(metrics) == [1, 2, 3, 4]
    assert {step: metrics[step] for step in killed.metrics} == killed.metrics
    again = answers_of(resumed.run_dir, STEPS)
    assert [(t.prompt, t.index, t.version, t.token_ids) for t in again] == [
        (t.prompt, t.index, t.version, t.token_ids) for t in killed.answers
    ]
    for before, after in zip(killed.answers, again, strict=True):
        assert after.logprobs == pytest.approx(before.logprobs, abs=CLOSE)


def test_figures_are_finite_and_the_parts_of_a_step_are_the_step(run):
    for row in steps_of(run):
        assert all(isfinite(value) for value in row.values()), row
        assert row["select/questions"] == 2 and row["rollout/engines_lost"] == 0
        assert sum(row[f"time/{part}"] for part in PARTS if f"time/{part}" in row) == pytest.approx(row["time/step"], rel=0.02, abs=0.2)


def test_engine_and_trainer_agree_on_what_was_sampled(run):
    """In each step anew, so the engine has what the step before has learnt; every publication was proven by checksum as well."""
    for row in (row for row in steps_of(run) if "loss/total" in row):
        assert 0 < row["logprob/diff_mean"] < CLOSE / 10 and row["logprob/diff_max"] < CLOSE
        assert row["time/sync_proof"] > 0 and row["sync/attempts"] == 1


def test_without_a_token_rm_the_policy_learns_in_every_step(resumed):
    rows = steps_of(resumed)
    assert [row["policy/version"] for row in rows] == [1, 2, 3, 4]
    assert all(row["grad_norm/policy"] > 0 and "loss/token_rm" not in row for row in rows)


def test_a_token_rm_learns_beside_the_policy_and_first_alone(with_token_rm):
    rows = steps_of(with_token_rm)
    assert [row.get("policy/version") for row in rows] == [None, 1, 2] and "loss/total" not in rows[0]
    assert all(row["loss/token_rm"] > 0 and row["grad_norm/token_rm"] > 0 for row in rows)
    assert len({row["loss/token_rm"] for row in rows}) == 3 and all(row["grad_norm/policy"] > 0 for row in rows[1:])
    assert all(0 <= row["token_weight/mean"] <= row["token_weight/max"] <= 1 for row in rows)


def test_an_export_is_what_the_engine_had(real_model, resumed):
    """The folder of step 3, on step 4's answers; further from the model that the run began with than from the engine."""
    answers = answers_of(resumed.run_dir, STEPS)
    assert {t.version for t in answers} == {3}
    engine = torch.cat([torch.tensor(t.logprobs) for t in answers])
    apart = float((logprobs_of(resumed.run_dir / "hf-step-00003", answers) - engine).abs().max())
    moved = float((logprobs_of(real_model, answers) - engine).abs().max())
    assert apart < CLOSE and moved > 10 * apart, (apart, moved)


def test_the_final_export_loads_and_is_the_trained_model(real_model, resumed):
    start, before, after = (HFFolder(str(folder)) for folder in (real_model, resumed.run_dir / "hf-step-00003", resumed.run_dir / "hf"))
    assert set(start) == set(before) == set(after)
    for name in start:
        assert not torch.equal(after[name][:].float(), start[name][:].float()) and not torch.equal(after[name][:], before[name][:]), name
    loaded = AutoModelForCausalLM.from_pretrained(resumed.run_dir / "hf")
    assert all(torch.equal(parameter, after[name][:]) for name, parameter in loaded.named_parameters())


def test_the_run_is_written_as_a_page(resumed, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert report.main([str(resumed.run_dir), "--out", str(page)]) == 0
    assert f"{STEPS} steps, {4 * STEPS} trajectories" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
