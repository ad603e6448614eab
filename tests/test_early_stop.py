"""A whole run, with real ranks and a real server, that stops early because the validation set no longer improves; and resumes."""

import json
from pathlib import Path

from tests import runs
from tools import make_demo

OVERRIDES = [  # a model with random weights is never right, before and after: nothing improves, keep=all gives it something to train on
    "experiment=demo",
    "debug=fast",
    "steps=9",
    "policy.freeze_steps=1",
    "data.questions_per_step=3",
    "rollout.samples=4",
    "rollout.max_new_tokens=24",
    "objective.keep=all",
    "record=true",
    "eval.interval=1",
    "eval.max_new_tokens=8",
    "eval.validation=6",
    "eval.validation_samples=2",
    "checkpoint.interval=100",
    "checkpoint.keep_last=1",
]


def run(task: Path, run_dir: Path, *overrides: str) -> str:
    given = [
        f"model.path={task / 'base'}",
        f"data.train={task / 'twice.jsonl'}",
        f"eval.data={task / 'heldout.jsonl'}",
        f"run_dir={run_dir}",
    ]
    started = runs.start(*OVERRIDES, *given, *overrides)
    output = runs.finish(started)
    assert started.returncode == 0, output
    return output


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_it_stops_early_keeps_the_best_and_takes_more_patience_later(tmp_path):
    task, run_dir = tmp_path / "task", tmp_path / "run"
    make_demo.main(["--out", str(task), "--train", "12", "--heldout", "4", "--sft", "16"])
    lines = (task / "train.jsonl").read_text().splitlines(keepends=True)
    (task / "twice.jsonl").write_text("".join(lines + [line.replace("?", " ?") for line in lines[:3]] + lines))
    output = run(task, run_dir, "eval.patience=2")
    assert "stopped early after step 3: 2 evaluations without improvement since step 0" in output
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["steps"], summary["stopped_early"], summary["best_step"], summary["evaluated"]) == (3, True, 3, "heldout")
    assert (run_dir / "hf" / "config.json").exists() and not (run_dir / "stopped").exists()
    assert [c.name for c in (run_dir / "checkpoints").glob("step-*")] == ["step-00003"]
    metrics = rows(run_dir / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2, 3]
    assert all({"eval/validation/avg_at_2", "eval/heldout/pass_at_1", "eval/pass_at_1"} <= row.keys() for row in metrics)
    assert metrics[0]["eval/validation/problems"] == 6
    assert "time/checkpoint" in metrics[2]  # step 1 was as good as the start, and saved for it

    output = run(task, run_dir, "eval.patience=4", "resume=auto")
    assert "resumed after step 3" in output and "stopped early after step 5: 4 evaluations without improvement since step 0" in output
    assert [row["step"] for row in rows(run_dir / "metrics.jsonl")] == [0, 1, 2, 3, 4, 5]

    trained = {group["prompt"]["question"].replace(" ?", "?") for file in (run_dir / "trajectories").glob("step-*") for group in rows(file)}
    assert 0 < len(trained) <= 6  # of 12, of which 6 are held out
