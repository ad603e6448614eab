"""The paper's ablation order on a small task: held-out pass@1 over seeds, from one supervised start a seed.

    python tools/bench_ablation.py [--seeds 0 1 2] [--out work_dirs/ablation] [--again] [-- overrides of every run]
    python tools/bench_ablation.py --task chains [--tune | --count] [--seeds 10 11] [--out work_dirs/ablation] [--fast]

`--task chains` is the ablation of launch/ablation.md: learning rates tuned on seeds 0 to 2, then seeds 10 to 15. --tune and --count do one
of the two, --seeds some of its seeds (two benches with other seeds may share a folder). Killed, it goes on with the run it was at. The
rest is about `--task demo`:

start                      the supervised policy
REINFORCE                  plain policy gradient with RLOO advantages on all trajectories
+ behaviour cloning        OREAL's losses (cloning of the right, reshaped wrong) on all trajectories, no token RM
+ token RM (OREAL)         the demo as it is: token weights, one right and one wrong trajectory a question

Every variant makes as many policy updates at the same learning rates. Prints a Markdown table and writes ablation.json; a seed or
variant that is already there is not run again unless --again is given.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_oreal.config import TrainConfig, load
from tools.ablation_figures import ablation_json, chosen_rates, table, tuning_table, weights_table
from tools.ablation_runs import FAST, FULL, Bench
from tools.ablation_variants import COUNTED_SEEDS, SAMPLED, TRAINED, TUNING_SEEDS, Run, all_runs, tuning_rates

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 3600
WITHOUT_RM = ["objective.token_rm=false", "objective.keep=all", "policy.freeze_steps=0"]
VARIANTS = {
    "REINFORCE": ["objective.loss=reinforce", *WITHOUT_RM],
    "+ behaviour cloning": WITHOUT_RM,
}
LAST = "+ token RM (OREAL)"
VALIDATION = "eval.validation=100"  # as in launch/demo.sh: every variant trains on the same questions


def run_demo(seed: int, work: Path, overrides: list[str]) -> dict:
    """The demo itself: supervised start, pass rates, OREAL. Its summary."""
    command = ["bash", "launch/demo.sh", f"seed={seed}", *overrides]
    return _run(command, work, {"WORK": str(work)})


def run_variant(name: str, seed: int, demo: Path, work: Path, overrides: list[str]) -> dict:
    """One variant from the same start and data, with as many policy updates as the demo makes."""
    given = [f"model.path={demo / 'sft' / 'hf'}", f"data.train={demo / 'train.jsonl'}", f"eval.data={demo / 'task' / 'heldout.jsonl'}"]
    given.append(VALIDATION)
    plain = load(TrainConfig, "train", ["experiment=demo", *given, *overrides])
    updates = plain.steps - plain.policy.freeze_steps
    own = [*VARIANTS[name], f"steps={updates}", f"seed={seed}", f"run_dir={work}"]
    return _run([sys.executable, "-m", "megatron_oreal.train", "experiment=demo", *given, *overrides, *own], work, {})


def _run(command: list[str], work: Path, environment: dict[str, str]) -> dict:
    print("+", " ".join(command), flush=True)
    defaults = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE_S, env={**defaults, **os.environ, **environment})
    return json.loads((work / "summary.json").read_text())


def demo_table(results: dict[str, dict[int, float]]) -> str:
    """Markdown: a row a variant, a column a seed, and the mean."""
    seeds = sorted(next(iter(results.values())))
    lines = ["| held-out pass@1, % | " + " | ".join(f"seed {s}" for s in seeds) + " | mean |", "|---" * (len(seeds) + 2) + "|"]
    for name, by_seed in results.items():
        values = [by_seed[s] for s in seeds]
        cells = [f"{100 * v:.1f}" for v in (*values, statistics.mean(values))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def demo(out: Path, seeds: Sequence[int], overrides: list[str]) -> None:
    """Run what is missing, print the table."""
    results: dict[str, dict[int, float]] = {"start": {}, **{name: {} for name in VARIANTS}, LAST: {}}
    for seed in seeds:
        demo = out / f"seed{seed}"
        done = demo / "summary.json"
        summary = json.loads(done.read_text()) if done.exists() else run_demo(seed, demo, overrides)
        results["start"][seed], results[LAST][seed] = summary["pass_at_1_start"], summary["pass_at_1_end"]
        for number, name in enumerate(VARIANTS):
            work = out / f"seed{seed}_variant{number}"
            done = work / "summary.json"
            summary = json.loads(done.read_text()) if done.exists() else run_variant(name, seed, demo, work, overrides)
            results[name][seed] = summary["pass_at_1_end"]
    (out / "ablation.json").write_text(json.dumps(results, indent=1) + "\n")
    print(demo_table(results))


def chains(bench: Bench, tune: bool, count: bool, seeds: Sequence[int] | None) -> None:
    """Run what is missing, print the tables of what is there."""
    if tune:
        chosen = seeds or TUNING_SEEDS
        bench.do([Run.start(seed) for seed in chosen] + all_runs(chosen, tuning_rates()), counts=False)
        print(tuning_table(bench.results, TUNING_SEEDS), end="\n\n")
    if count:
        chosen, rates = seeds or COUNTED_SEEDS, chosen_rates(bench.results, TUNING_SEEDS)
        bench.do([Run.start(seed) for seed in chosen] + all_runs(chosen, rates), counts=True)
        results = [one for one in bench.results if one.seed in COUNTED_SEEDS]
        (bench.out / "ablation.json").write_text(json.dumps(ablation_json(results, SAMPLED), indent=1) + "\n")
        for text in (table(results, SAMPLED, COUNTED_SEEDS), table(results, TRAINED, COUNTED_SEEDS), weights_table(results, COUNTED_SEEDS)):
            print(text, end="\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--task", choices=("demo", "chains"), default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: of the demo 0 1 2, of the chains those of its protocol")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/ablation"))
    parser.add_argument("--again", action="store_true", help="run what is already there once more")
    parser.add_argument("--tune", action="store_true", help="chains: the learning rates alone")
    parser.add_argument("--count", action="store_true", help="chains: the runs that count alone")
    parser.add_argument("--only", type=int, metavar="N", help="chains: make N runs at most in this call")
    parser.add_argument("--fast", action="store_true", help="chains: so small that nothing is learnt, to see that everything works")
    parser.add_argument("overrides", nargs="*", help="demo: Hydra overrides of every run, after --")
    arguments = parser.parse_args()
    if not (ROOT / "launch" / "demo.sh").is_file():
        parser.error("needs a checkout of the project: launch/demo.sh is not in a wheel")
    out = arguments.out.resolve()
    if arguments.again:
        shutil.rmtree(out, ignore_errors=True)
    if arguments.task == "demo":
        return demo(out, arguments.seeds or (0, 1, 2), arguments.overrides)
    if arguments.seeds and arguments.tune == arguments.count:
        parser.error("--seeds are those of --tune or of --count: say which")
    both = arguments.tune == arguments.count
    chains(Bench(out, FAST if arguments.fast else FULL, arguments.only), arguments.tune or both, arguments.count or both, arguments.seeds)


if __name__ == "__main__":
    main()
