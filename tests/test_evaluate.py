"""The evaluator as a command, asking the session's running server; killed, started again, and with other settings."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megatron_oreal import evaluate
from megatron_oreal.data.questions import Question
from megatron_oreal.data.tokenizer import Template, load_tokenizer
from megatron_oreal.evaluation import evaluator as evaluation
from megatron_oreal.evaluation.checkpoint import fingerprint
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.evaluation.evaluator import Evaluator, askings
from megatron_oreal.evaluation.sets import Problem, ProblemSet
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Group, Verdict, finish
from megatron_oreal.verify import Verifier
from tests import runs
from tests.settings import rollout_config, verify_config


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def questions(tmp_path):
    rows = [{"question": f"What is {i}?", "gold_answer": "7", "level": i % 2} for i in range(5)]
    rows.append({"question": "long " * 200, "gold_answer": "7", "level": 9})
    return write(tmp_path / "questions.jsonl", rows)


def answers_in(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "answers.jsonl").read_bytes().split(b"\n")[1:-1]]


def test_evaluation_counts_every_problem(asking, questions, tmp_path, capsys):
    overrides = [*asking, f"eval.data={questions}", "eval.max_new_tokens=16", f"run_dir={tmp_path / 'run'}"]
    assert evaluate.main(overrides) == 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (result["problems"], result["not_asked"], result["pass_at_1"]) == (6, 1, 0.0)
    assert result["pass_at_1_interval"] == pytest.approx([0.0, 0.390], abs=1e-3)  # Wilson, 0 of 6
    assert 0 < result["length_mean"] <= result["length_p95"] <= 16
    assert {level: part["problems"] for level, part in result["sets"]["questions"]["by_level"].items()} == {"0": 3, "1": 2, "9": 1}
    assert "pass@1 0.0% of 6 problems" in capsys.readouterr().out


def test_several_sets_are_sampled_and_written_as_a_page(asking, questions, tmp_path):
    other = write(tmp_path / "other.jsonl", [{"problem": f"Add {i}", "answer": i, "type": "sums|<b>"} for i in range(3)])
    sets = [f"+eval.sets.first={questions}", f"+eval.sets.second.data={other}", "+eval.sets.second.samples=4", "+eval.sets.second.k=[2,4]"]
    assert evaluate.main([*asking, *sets, "eval.max_new_tokens=16", f"run_dir={tmp_path}"]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())["sets"]
    assert result["first"]["sampled"] is None
    sampled = result["second"]["sampled"]
    assert (sampled["samples"], list(sampled["pass_at"]), sampled["average"]["value"]) == (4, ["2", "4"], 0.0)
    rows = answers_in(tmp_path)
    assert sorted((r["set"], r["way"], len(r["answers"]), len(r["texts"])) for r in rows) == (
        [("first", "greedy", 1, 1)] * 5 + [("second", "greedy", 1, 1)] * 3 + [("second", "sampled", 4, 4)] * 3
    )
    page = (tmp_path / "evaluation.md").read_text()
    assert "| set | problems | pass@1 | avg@4 | pass@2 of 4 | pass@4 of 4 | majority@4 | lengths | cut | undecided | not asked |" in page
    assert "## first by level" in page and "\n| sums\\|&lt;b> | 3 | 0.0 [" in page


def test_killed_in_the_middle_it_asks_only_what_is_missing(asking, tmp_path, capsys):
    """What it was killed in the middle of is asked again; other weights are another evaluation."""
    count = 100
    data = write(tmp_path / "in.jsonl", [{"question": f"What is {i}?", "gold_answer": "7", "id": f"q{i}"} for i in range(count)])
    run_dir = tmp_path / "run"
    arguments = [*asking, f"eval.data={data}", f"run_dir={run_dir}", "eval.max_new_tokens=60", "eval.samples=2", "rollout.concurrency=2"]
    kept, pipes = run_dir / "answers.jsonl", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with runs.start(*arguments, module="megatron_oreal.evaluate", **pipes) as process:
        deadline = time.monotonic() + 120
        while not kept.exists() or kept.read_bytes().count(b"\n") < 21:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read() if process.poll() is not None else "slow"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = answers_in(run_dir)
    assert 20 <= len(before) < 2 * count and not (run_dir / "evaluation.json").exists()
    with open(kept, "ab") as file:
        file.write(b'{"set": "in", "id": "q29')  # as if it had been killed in the middle of a line
    assert evaluate.main([*arguments, "eval.temperature=0.5"]) == 2
    error = capsys.readouterr().err
    assert "answers.jsonl is of another measurement (set in was {" in error and "choose another run_dir" in error
    assert evaluate.main(arguments) == 0
    assert f"going on: {len(before)} of {2 * count} are answered" in capsys.readouterr().out
    after = answers_in(run_dir)
    assert after[: len(before)] == before
    assert len({(r["id"], r["way"]) for r in after}) == len(after) == 2 * count
    assert json.loads((run_dir / "evaluation.json").read_text())["problems"] == count
    (run_dir / "evaluation.json").unlink()  # all is answered: nobody is asked
    assert evaluate.main([a if not a.startswith("rollout.urls") else "rollout.urls=[http://127.0.0.1:9]" for a in arguments]) == 0
    assert json.loads((run_dir / "evaluation.json").read_text())["problems"] == count


def test_a_checkpoint_with_other_weights_is_another_one(served_model, tiny_model):
    other = tiny_model(seed=6, tokenizer=True, vocab_size=520, tie_word_embeddings=True)
    assert fingerprint(Path(served_model)) != fingerprint(Path(other))


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

    def verifying(self, events, expected, samples, on_group):
        yield from ()
        rest = Verdict(False, "judge: unclear", decided=False, left_out=True)
        return [Group(t.prompt, [t], [Verdict(True, "equal") if t.prompt.id == "s/0" else rest]) for t in events]

    def compare(self, answer, other):
        raise AssertionError("nothing was sampled")

    def final_answer(self, text):
        return None


def test_undecided_answers_are_not_right_and_are_reported(engines, served_model):
    tokenizer = load_tokenizer(served_model)
    one = ProblemSet("s", [Problem(Question(f"{i}", f"What is {i}?", "7")) for i in range(4)], EvalSet("", samples=0))
    rollout = Rollout(rollout_config(max_new_tokens=16, max_total_tokens=100), engines, tokenizer)
    evaluator = Evaluator([one], askings([one], Template(tokenizer, ""), 16, 100), rollout, Undecided())
    found = finish(evaluator.evaluate(version=0), rollout.take_those_that_are_back)
    assert (found.sets["s"].pass_at_1, found.sets["s"].undecided) == (0.25, 3)
    assert found.metrics()["eval/pass_at_1"] == found.metrics()["eval/s/pass_at_1"] == 0.25
    assert found.validation == []


@pytest.mark.parametrize(("at_once", "sizes"), [(100, [4, 12]), (12, [4, 6, 6]), (6, [3, 1, 3, 3, 3, 3])])
def test_the_next_round_is_under_way_while_one_ends_as_far_as_memory_allows(engines, served_model, monkeypatch, at_once, sizes):
    """Four questions greedily, and three samples of each."""
    monkeypatch.setattr(evaluation, "ANSWERS_AT_ONCE", at_once)
    tokenizer, rounds, begun, answers = load_tokenizer(served_model), [], {}, {}
    asked = EvalSet("", samples=3, temperature=0.6, top_p=0.9)
    one = ProblemSet("s", [Problem(Question(f"{i}", f"What is {i}?", "7")) for i in range(4)], asked)
    rollout = Rollout(rollout_config(max_new_tokens=16, max_total_tokens=100), engines, tokenizer)

    def generate(prompts, version, sampling):
        size = len(prompts) * sampling.samples
        assert size + sum(size for size, _, answers in rounds if not answers.ended) <= at_once
        rounds.append((size, {(sampling.samples, prompt.id) for prompt in prompts}, Rollout.generate(rollout, prompts, version, sampling)))
        return rounds[-1][2]

    def take(of, group):
        which = next(n for n, (_, prompts, _) in enumerate(rounds) if (len(of.answers), group.prompt.id) in prompts)
        begun.setdefault(which, len(rounds))
        answers[of.key] = of

    monkeypatch.setattr(rollout, "generate", generate)
    with Verifier(verify_config(workers=1)) as verifier:
        finish(Evaluator([one], askings([one], Template(tokenizer, ""), 16, 100), rollout, verifier).ask(0, {}, take), lambda: None)
    assert [size for size, _, _ in rounds] == sizes and all(answers.ended for _, _, answers in rounds)
    assert [begun[n] for n in range(len(sizes))] == [min(n + 2, len(sizes)) for n in range(len(sizes))]
    assert sorted(len(of.answers) for of in answers.values()) == [1] * 4 + [3] * 4
