"""The ablation's bookkeeping and figures from known results; and the whole bench in small (slow), killed and started again."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.monitor.recorded import FOLDER, Weighted, weights_file, write_step
from megatron_oreal.trajectory import Group, Prompt, Trajectory, Verdict
from tools.ablation_figures import Result, chosen_rates, counted, interval, step_aucs, table, tuning_table, weighed
from tools.ablation_runs import FAST, Bench
from tools.ablation_variants import BY_NAME, OREAL, RATES, SAMPLED, START, TRAINED, VARIANTS, Run, all_runs, overrides_of, tuning_rates
from tools.make_chains import WrongStep

ROOT = Path(__file__).resolve().parents[2]


def results(seeds, greedy) -> list[Result]:
    """Of runs of all rates; `greedy` by run."""
    runs = all_runs(seeds, dict.fromkeys(tuning_rates(), RATES))
    starts = [Result(START, "", seed, 0.0, 0.25, 0.2, 100) for seed in seeds]
    return starts + [Result(r.variant, r.budget, r.seed, r.lr, greedy(r), greedy(r) - 0.05, 100) for r in runs]


def test_every_variant_is_tried_with_the_same_rates_and_counted_with_its_best():
    tried = all_runs((0, 1), tuning_rates())
    assert len(tried) == len(set(tried)) == 2 * len(RATES) * len(VARIANTS) and {run.budget for run in tried} == {SAMPLED}
    found = results((0, 1), lambda run: 0.5 + (run.lr == RATES[2]) * (0.1 if run.variant == "REINFORCE" else -0.1))
    rates = chosen_rates(found, (0, 1))
    assert rates["REINFORCE", SAMPLED] == rates["REINFORCE", TRAINED] == [RATES[2]]
    assert rates["+ token RM", SAMPLED] == [min(RATES)], "the smaller one of equals"
    assert len(all_runs((10,), rates)) == len(VARIANTS) + sum(not v.token_rm for v in VARIANTS)
    assert "| REINFORCE | trained | 50.0 (2) | 50.0 (2) | 60.0 (2) |" in tuning_table(found, (0, 1))
    with pytest.raises(ValueError, match="no learning rate has been run on all of the seeds"):
        chosen_rates([one for one in found if (one.variant, one.seed) != ("+ cloning", 1)], (0, 1))


def test_equal_trained_trajectories_are_equal(tmp_path):
    plain = load(TrainConfig, "train", ["experiment=chains", f"model.path={tmp_path}", f"data.train={tmp_path}"])
    updates = plain.steps - plain.policy.freeze_steps
    for run in all_runs((0,), dict.fromkeys(tuning_rates(), RATES[:1])):
        overrides = overrides_of(run, plain)
        found = load(TrainConfig, "train", ["experiment=chains", f"model.path={tmp_path}", f"data.train={tmp_path}", *overrides])
        assert found.objective.token_rm == BY_NAME[run.variant].token_rm
        assert found.policy.optimizer.lr == run.lr == pytest.approx(5 * found.policy.optimizer.min_lr)
        assert found.token_rm.optimizer.lr == pytest.approx(4 * run.lr) or not BY_NAME[run.variant].token_rm
        if run.budget == SAMPLED:
            assert found.steps * found.data.questions_per_step == plain.steps * plain.data.questions_per_step
        if run.budget == TRAINED or BY_NAME[run.variant].token_rm:
            assert found.steps - found.policy.freeze_steps == updates
            a_question = found.rollout.samples if found.objective.keep == "all" else 2
            assert found.data.questions_per_step * a_question == 2 * plain.data.questions_per_step


def test_counts_leave_frozen_steps_out_of_what_was_trained_on():
    rows = [{"step": 0, "eval/seconds": 1.0}] + [
        {"step": step, "select/questions": 16, "select/kept": 12, "response/length_mean": 100.0} | ({"loss/total": 0.1} if step > 1 else {})
        for step in (1, 2, 3)
    ]
    assert counted(rows, 16, keeps_all=False) == {"updates": 2, "sampled_tokens": 3 * 16 * 16 * 100, "trained": 2 * 12 * 2}
    assert counted(rows, 16, keeps_all=True)["trained"] == 2 * 12 * 16


def test_the_interval_is_of_paired_differences():
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and half == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=0.01)  # Student's quantile of 4 degrees of freedom
    assert interval([1.0]) == (1.0, None)
    found = results((10, 11, 12), lambda run: run.seed / 20 + (run.variant != "REINFORCE") * 0.05)
    found = [one for one in found if one.variant == START or one.lr == RATES[0]]
    text = table(found, SAMPLED, (10, 11, 12, 13))
    assert f"| + cloning | {RATES[0]:g} | 60.0 | 55.0 | +5.0 ± 0.0 | +5.0 ± 0.0 |" in text, "seeds differ by much, pairs do not"
    assert "+ token RM - pairs, no token RM: greedy +0.0 ± 0.0" in text and text.endswith("Seeds 10, 11, 12.")
    assert "no seed has been run with every variant" in table(found[:5], TRAINED, (10,))


def test_weights_are_compared_within_the_trajectory():
    one = Weighted("q", 0, [" A", "=", "1", ".", " B", "=", "2", ".", " C"], [0.0, 0.1, 0.1, 0.0, 0.3, 0.4, 0.5, 0.2, 0.9])
    areas = step_aucs(one, WrongStep(1, 4 + 1, 9 + 1))
    assert areas == {"step_auc": pytest.approx(4 / 5), "step_auc_before": 1.0}
    assert step_aucs(one, WrongStep(0, 0, 5)).keys() == {"step_auc"}, "nothing before it"
    assert step_aucs(Weighted("q", 0, one.pieces, [0.0] * 9), WrongStep(1, 5, 10))["step_auc"] == 0.5


def test_figures_of_a_recorded_run_leave_out_frozen_steps_and_mark_wrong_steps(tmp_path):
    question, right = "Ring of 31. From 12: A *3, B +7. Where does it end?", "From 12: A *3=5. B +7=12. The end is \\boxed{12}"
    texts = [right, right.replace("12.", "13.").replace("{12}", "{13}")]
    prompt = Prompt("7#1", question, "12", [1])
    trajectories = [Trajectory(prompt, i, list(range(len(t))), [0.0] * len(t), t, "stop", 0) for i, t in enumerate(texts)]
    group = Group(prompt, trajectories, [Verdict(True, "equal"), Verdict(False, "different")])
    (tmp_path / FOLDER).mkdir()
    for step in (1, 2):
        write_step(tmp_path / FOLDER, step, [group])
        rows = [Weighted("7#1", i, list(t), [0.25 * i + 0.5 * (step == 1)] * len(t)) for i, t in enumerate(texts)]
        weights_file(tmp_path / FOLDER, step).write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "token_rm/auc": s / 2}) + "\n" for s in (1, 2)))
    assert weighed(tmp_path, frozen=1) == {
        "rm_auc": 1.0,
        "step_auc": 0.5,
        "step_auc_before": 0.5,
        "weight_right": 0.0,
        "weight_wrong": 0.25,
        "zero_right": 1.0,
        "zero_wrong": 0.0,
    }
    marked = json.loads((tmp_path / FOLDER / "marks-00002.jsonl").read_text())
    assert texts[1][marked["begin"] : marked["end"]] == " B +7=13." and marked["index"] == 1


def test_a_seed_whose_start_cannot_do_the_task_is_left_out(tmp_path, capsys):
    bench = Bench(tmp_path, replace(FAST, learnt=0.1), None)
    rows = bench._rows()
    rows.add(Result(START, "", 10, 0.0, 0.04, 0.03, 1000))
    rows.close()
    bench.do([Run.start(10), *all_runs((10,), tuning_rates())], counts=False)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(RATES) * len(VARIANTS) and all("seed 10: left out, its start has 4.0% right" in line for line in said)
    assert [one.variant for one in bench.results] == [START]


@pytest.mark.slow
def test_a_killed_bench_goes_on_where_it_was(tmp_path):
    out = tmp_path / "ablation"
    command = [sys.executable, "tools/bench_ablation.py", "--task", "chains", "--fast", "--seeds", "0", "--tune", "--out", str(out)]
    bench = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    first = bench.stdout.readline()
    os.killpg(bench.pid, 9)
    bench.wait()
    assert first.startswith("1/") and "start" in first
    done = subprocess.run([*command, "--only", "1"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "start" not in done.stdout.splitlines()[0] and "| REINFORCE | sampled |" in done.stdout
    shutil.rmtree(out / "seed0")  # as where only the figures were kept: the start is made again
    counted = Bench(out, FAST, None)
    counted.do([Run(OREAL, SAMPLED, 0, RATES[0])], counts=True)
    start, plain, oreal = counted.results
    assert [start.variant, plain.variant, oreal.variant] == [START, "REINFORCE", OREAL] and start.problems == FAST.heldout
    assert plain.updates == 3 and plain.trained == 3 * 8 * 4 and plain.average is None and oreal.average is not None
