"""The evaluator as a command, asking the session's running server."""

import json

import pytest

from megatron_oreal import evaluate
from megatron_oreal.evaluate import Evaluator
from megatron_oreal.prompts import load_tokenizer
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Group, Prompt, Verdict


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"What is {i}?", "gold_answer": "7", "level": i} for i in range(5)]
    rows.append({"question": "long " * 200, "gold_answer": "7", "level": 9})
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_evaluation_counts_every_problem(asking, questions, tmp_path, capsys):
    overrides = [*asking, f"eval.data={questions}", "eval.max_new_tokens=16", f"run_dir={tmp_path / 'run'}"]
    assert evaluate.main(overrides) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["problems"], result["not_asked"], result["pass_at_1"]) == (6, 1, 0.0)
    assert 0 < result["length_mean"] <= 16
    assert "pass@1 0.0% of 6 problems" in capsys.readouterr().out


def test_a_server_that_is_not_there_is_one_line(asking, questions, capsys, tmp_path):
    overrides = [
        *asking,
        f"eval.data={questions}",
        "rollout.urls=[http://127.0.0.1:9]",
        "rollout.ready_timeout_s=0.1",
        f"run_dir={tmp_path}",
    ]
    capsys.readouterr()
    assert evaluate.main(overrides) == 1
    error = capsys.readouterr().err
    assert "rollout.urls: http://127.0.0.1:9 does not answer /health" in error
    assert error.count("\n") == 1


class Undecided:
    """A verifier that can tell of the first question alone."""

    def verify(self, trajectories, samples):
        rest = Verdict(False, "judge: unclear", decided=False, left_out=True)
        return [Group(t.prompt, [t], [Verdict(True, "equal") if t.prompt.id == "p0" else rest]) for t in trajectories]


def test_undecided_answers_are_not_right_and_are_reported(engines, served_model):
    prompts = [Prompt(f"p{i}", "q", "7", [5 + i, 7, 9]) for i in range(4)]
    rollout = Rollout(RolloutConfig(max_new_tokens=16, max_total_tokens=100), engines, load_tokenizer(served_model))
    evaluation = Evaluator(prompts, rollout, Undecided(), 16, 100).evaluate(version=0)
    assert (evaluation.pass_at_1, evaluation.undecided) == (0.25, 3)
