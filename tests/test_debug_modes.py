"""Parts of a run by themselves: what one wrote the other reads, and a replayed step gives the figures of then."""

from pathlib import Path

from megatron_oreal.monitor.recorded import FOLDER, read_step, weights_file
from megatron_oreal.report.trajectories import pack
from tests import runs

COMMON = [
    "experiment=demo",
    "data.questions_per_step=3",
    "rollout.samples=4",
    "rollout.max_new_tokens=24",
    "objective.keep=all",  # a model with random weights is never right
    "policy.freeze_steps=1",
    "policy.optimizer.warmup_steps=1",
    "token_rm.optimizer.warmup_steps=1",
]


def run(task: Path, run_dir: Path, *overrides: str) -> tuple[int, str]:
    given = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"run_dir={run_dir}"]
    started = runs.start(*COMMON, *given, *overrides)
    output = runs.finish(started)
    return started.returncode, output


def metrics(run_dir: Path) -> dict[int, dict]:
    return {row["step"]: row for row in runs.metrics_of(run_dir)}


def test_a_recorded_step_is_replayed_exactly(task, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    status, output = run(task, whole, "steps=3", "record=true", "checkpoint.interval=1", "checkpoint.keep_last=3")
    assert status == 0, output
    replay = ["debug=replay", "replay_step=3", f"recorded={whole / 'trajectories'}", f"resume={whole / 'checkpoints' / 'step-00002'}"]
    status, output = run(task, again, "steps=3", "record=true", *replay)
    assert status == 0, output
    then, now = metrics(whole)[3], metrics(again)[3]
    learnt = [name for name in then if name.startswith(("loss/", "grad_norm/", "reward/", "select/", "response/"))]
    assert len(learnt) > 10 and then["loss/policy" if "loss/policy" in then else "loss/total"]
    assert {name: now[name] for name in learnt} == {name: then[name] for name in learnt}
    packed = pack(whole, most=1000)
    trained_on = sum(len(t.token_ids) > 0 for step in (1, 2, 3) for g in read_step(whole / FOLDER, step) for t in g.trajectories)
    assert sum(packed.index.trained) == trained_on > 30, "every trajectory with a token has its weights beside it"
    assert weights_file(again / FOLDER, 3).read_bytes() == weights_file(whole / FOLDER, 3).read_bytes()
    status, output = run(task, again, "steps=3", *replay[:3], f"resume={whole / 'checkpoints' / 'step-00001'}")
    assert status == 2 and "to replay step 3 the checkpoint after step 2 is needed, this one is of 1" in output


def test_what_is_sampled_alone_is_trained_on_alone(task, tmp_path):
    status, output = run(task, tmp_path / "sampled", "debug=rollout_only", "steps=2")
    assert status == 0, output
    folder = tmp_path / "sampled" / "trajectories"
    groups = read_step(folder, 2)
    assert [len(g.trajectories) for g in groups] == [4] * 3
    assert not (tmp_path / "sampled" / "hf").exists()
    profiled = ["profile=torch", "profile.first=2"]
    status, output = run(task, tmp_path / "trained", "debug=train_only", f"recorded={folder}", "steps=2", *profiled)
    assert status == 0, output
    rows = metrics(tmp_path / "trained")
    assert {"time/optimizer", "perf/tokens_per_second_per_gpu", "memory/peak_rss_gib", "token_rm/brier", "policy/entropy"} <= rows[2].keys()
    files = sorted(path.name for path in (tmp_path / "trained" / "profile").iterdir())
    assert files == [f"step-00002-rank-0000{rank}.json.gz" for rank in range(2)]
    assert list((tmp_path / "trained" / "tensorboard").iterdir()) and (tmp_path / "trained" / "logs" / "rank-00001.log").exists()
    assert rows[2]["loss/token_rm"] > 0 and rows[2]["response/length_mean"] == metrics(tmp_path / "sampled")[2]["response/length_mean"]
    (folder / "step-00001.jsonl").write_text('{"prompt": 3}\n')
    status, output = run(task, tmp_path / "broken", "debug=train_only", f"recorded={folder}", "steps=2")
    assert status == 2 and "step-00001.jsonl, line 1: " in output
