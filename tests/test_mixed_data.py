"""A whole run on two sets of different kinds, mixed by weights: counted by origin, and resumed as if nothing had happened."""

import json
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.runs import Run

SMALL = [
    "experiment=demo",
    "debug=fast",
    "parallel.dp=1",
    "steps=3",
    "policy.freeze_steps=1",
    "checkpoint.interval=1",
    "data.questions_per_step=4",
    "data.balance=[]",
    "rollout.samples=2",
    "rollout.max_new_tokens=16",
    "rollout.deterministic=true",
    "rollout.concurrency=1",
    "objective.keep=all",
    "record=true",
]


def start(task: Path, folder: Path, run_dir: Path, *overrides: str) -> Run:
    sets = {"lines.data": folder / "lines.jsonl", "lines.weight": 3, "chats.data": folder / "chats", "chats.weight": 1}
    return Run(run_dir, *SMALL, f"model.path={task / 'base'}", *(f"data.sets.{key}={value}" for key, value in sets.items()), *overrides)


def write_sets(task: Path, folder: Path) -> dict[str, set[str]]:
    """Of the same questions half as lines, half as a folder with verl's Parquet. Returns the texts of each."""
    rows = [json.loads(line) for line in (task / "train.jsonl").open(encoding="utf-8")]
    lines, chats = rows[:5], rows[5:12]
    (folder / "chats").mkdir(parents=True)
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    system = {"role": "system", "content": "Be brief."}
    verl = [
        {
            "prompt": [system, {"role": "user", "content": row["question"]}],
            "reward_model": {"style": "rule", "ground_truth": row["gold_answer"]},
            "extra_info": {"split": "train", "index": number},
        }
        for number, row in enumerate(chats)
    ]
    for split in ("train", "test"):
        parquet.write_table(pyarrow.Table.from_pylist(verl), folder / "chats" / f"{split}.parquet")
    return {"lines": {row["question"] for row in lines}, "chats": {row["question"] for row in chats}}


def asked(run_dir: Path, step: int) -> list[tuple[str, str]]:
    groups = [json.loads(line) for line in (run_dir / "trajectories" / f"step-{step:05d}.jsonl").open(encoding="utf-8")]
    return sorted((group["prompt"]["origin"], group["prompt"]["question"]) for group in groups)


def test_two_sets_are_mixed_by_weight_counted_by_origin_and_resumed(task, tmp_path):
    texts = write_sets(task, tmp_path)
    whole = start(task, tmp_path, tmp_path / "whole")
    output = whole.finish()
    assert whole.process.returncode == 0, output
    assert "data: chats: 7 rows with a system message of its own, left out" in output and "chats: 7 prompts, 25.0% of those drawn" in output
    metrics = whole.metrics()
    for step in (1, 2, 3):
        row = metrics[step]
        assert (row["data/lines/questions"], row["data/chats/questions"]) == (3, 1)
        assert row["data/lines/kept"] + row["data/chats/kept"] == row["select/kept"] == 4
        assert (row["data/lines/epoch"], row["data/chats/epoch"]) == (step * 3 / 5, step / 7)
        assert all(text in texts[origin] for origin, text in asked(tmp_path / "whole", step))
    assert len({text for step in (1, 2, 3) for origin, text in asked(tmp_path / "whole", step) if origin == "chats"}) == 3

    broken = start(task, tmp_path, tmp_path / "broken")
    broken.wait_for(lambda: (tmp_path / "broken" / "checkpoints" / ".step-00002.partial").exists())
    broken.kill()
    resumed = start(task, tmp_path, tmp_path / "broken", "resume=auto")
    output = resumed.finish()
    assert resumed.process.returncode == 0, output
    assert "resumed after step" in output
    assert resumed.metrics() == metrics
    assert [asked(tmp_path / "broken", step) for step in (2, 3)] == [asked(tmp_path / "whole", step) for step in (2, 3)]
