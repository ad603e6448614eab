"""Seconds of the demo's training stages under each layout, one after the other on this machine:

    python tools/bench_layouts.py --demo work_dirs/demo [--layouts dp2 tp2 pp2 auto] [--steps 12]

It starts from the supervised policy and the rated questions of a finished demo (launch/demo.sh). Prints the median over the steps after
the first three, as seconds and as a ratio to the first layout named; `auto` is one rank.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 1800
STAGES = ("time/rollout", "time/token_rm", "time/reference", "time/policy", "time/optimizer", "time/sync")
WARM_UP_STEPS = 3


def measure(layout: str, demo: Path, steps: int) -> dict[str, float]:
    """Median seconds of each stage of one run."""
    with tempfile.TemporaryDirectory() as run_dir:
        overrides = [
            "experiment=demo",
            f"parallel={layout}",
            f"model.path={demo / 'sft' / 'hf'}",
            f"data.train={demo / 'train.jsonl'}",
            f"run_dir={run_dir}",
            f"steps={steps}",
            "policy.freeze_steps=1",
            "policy.optimizer.warmup_steps=1",
            "token_rm.optimizer.warmup_steps=1",
        ]
        environment = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", **os.environ}
        command = [sys.executable, "-m", "megatron_oreal.train", *overrides]
        subprocess.run(command, cwd=ROOT, check=True, timeout=DEADLINE_S, env=environment, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["step"] > WARM_UP_STEPS and "time/sync" in r]
    return {stage: statistics.median(r[stage] for r in trained) for stage in STAGES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--demo", type=Path, default=Path("work_dirs/demo"))
    parser.add_argument("--layouts", nargs="+", default=["dp2", "tp2", "pp2", "auto"])
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    print("| layout | " + " | ".join(s.removeprefix("time/") for s in STAGES) + " | training, s | ratio |")
    print("|---" * (len(STAGES) + 3) + "|")
    first = None
    for layout in arguments.layouts:
        medians = measure(layout, arguments.demo.resolve(), arguments.steps)
        training = sum(medians[s] for s in STAGES[1:])
        first = first or training
        cells = [f"{medians[s]:.2f}" for s in STAGES] + [f"{training:.2f}", f"{training / first:.2f}"]
        print(f"| {layout} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
