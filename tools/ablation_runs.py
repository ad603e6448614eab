"""Makes the runs of the ablation on the chains one after the other, and keeps what came of each: killed, it goes on with the next."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.evaluation.saved_rows import SavedRows
from tools import make_chains
from tools.ablation_figures import Result, counted, read_metrics, weighed
from tools.ablation_variants import BY_NAME, START, Run, overrides_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "results.jsonl"
DEADLINE_S = 4 * 3600
"""Of one run; on a machine that others use as well it may take many times as long as alone."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    train: int
    heldout: int
    sft: int
    samples: int  # n of avg@n
    started: tuple[str, ...]  # overrides of the supervised start
    overrides: tuple[str, ...]  # of every training run
    learnt: float  # greedy pass@1 of a start below which its seed is left out: it cannot do the task yet


FULL = Sizes(train=1000, heldout=1000, sft=24_000, samples=8, started=(), overrides=(), learnt=0.1)
FAST = Sizes(64, 16, 800, 2, started=("debug=fast_sft", "steps=12"), overrides=("debug=fast", "steps=3"), learnt=0.0)
"""To see that everything works: nothing is learnt."""


class Bench:
    """A folder of runs; results.jsonl in it has a line for each that is done."""

    def __init__(self, out: Path, sizes: Sizes, most: int | None):
        """`most`: new runs that are made, all together; None: all. Raises ValueError where the folder holds runs of other sizes."""
        self.out, self._sizes, self._left = out, sizes, most
        out.mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> list[Result]:
        """As they stand in the file now: another bench may be at other seeds in the same folder."""
        with closing(self._rows()) as rows:
            return list(rows.rows.values())

    def _rows(self) -> SavedRows[Result]:
        of = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self._sizes).items()}
        return SavedRows(self.out / RESULTS, of, Result, "out")

    def do(self, runs: Sequence[Run], counts: bool) -> None:
        """Those of them that are not done yet, of seeds whose start can do the task.

        `counts`: avg@n is sampled too, and what token RMs gave is kept and looked at.
        """
        for number, run in enumerate(runs, 1):
            done = {one.key: one for one in self.results}
            if run in done:
                continue
            start = done.get(Run.start(run.seed))
            if start and start.greedy < self._sizes.learnt:
                print(f"{number}/{len(runs)} {run.name} seed {run.seed}: left out, its start has {start.greedy:.1%} right", flush=True)
                continue
            if self._left == 0:
                return
            self._left = None if self._left is None else self._left - 1
            began = time.monotonic()
            result = self._start(run, counts) if run.variant == START else self._train(run, counts)
            result = replace(result, seconds=round(time.monotonic() - began, 1))
            with closing(self._rows()) as rows:
                rows.add(result)
            what = f"{run.variant} {run.budget} seed {run.seed} rate {run.lr:g}"
            print(f"{number}/{len(runs)} {what}: greedy {result.greedy:.1%} in {result.seconds:.0f} s", flush=True)

    def _seed(self, seed: int) -> Path:
        return self.out / f"seed{seed}"

    def _start(self, run: Run, counts: bool) -> Result:
        """The supervised start's figures."""
        self._make_start(run.seed)
        return self._evaluated(run, self._seed(run.seed) / "start", counts)

    def _make_start(self, seed: int) -> None:
        """Task and supervised start, unless they are there."""
        folder, sizes = self._seed(seed), self._sizes
        if (folder / "start" / "summary.json").exists():  # the last that is written
            return
        make_chains.make_chains(folder / "task", seed, sizes.train, sizes.heldout, sizes.sft)
        given = [f"model.path={folder / 'task' / 'base'}", f"data.train={folder / 'task' / 'sft.jsonl'}", f"seed={seed}"]
        _python("sft", folder / "start", ["experiment=chains_sft", *given, *sizes.started, "resume=auto"])

    def _train(self, run: Run, counts: bool) -> Result:
        """One variant from its seed's start. What an earlier try left is done again; and the start where only its figures are kept."""
        self._make_start(run.seed)
        folder = self._seed(run.seed) / run.name
        shutil.rmtree(folder, ignore_errors=True)
        task, start = self._seed(run.seed) / "task", self._seed(run.seed) / "start" / "hf"
        given = ["experiment=chains", f"model.path={start}", f"data.train={task / 'train.jsonl'}", *self._sizes.overrides]
        plain, variant = load(TrainConfig, "train", given), BY_NAME[run.variant]
        recorded = counts and variant.token_rm
        _python("train", folder, [*given, *overrides_of(run, plain), f"record={str(recorded).lower()}"])
        found = self._evaluated(run, folder, counts)
        tokens = counted(read_metrics(folder), plain.rollout.samples, variant.keeps_all)
        for large in ("checkpoints", "hf"):
            shutil.rmtree(folder / large, ignore_errors=True)
        return replace(found, **tokens, weighed=weighed(folder, plain.policy.freeze_steps) if recorded else None)

    def _evaluated(self, run: Run, folder: Path, counts: bool) -> Result:
        """On the seed's held-out problems; samples at temperature 1 of all tokens: the policy as it is."""
        samples = self._sizes.samples if counts else 0
        given = [f"model.path={folder / 'hf'}", f"eval.data={self._seed(run.seed) / 'task' / 'heldout.jsonl'}", f"eval.samples={samples}"]
        given += ["eval.temperature=1", "eval.top_p=1", "eval.max_new_tokens=160", "rollout.max_total_tokens=256", "verify.workers=1"]
        _python("evaluate", folder / "evaluation", [*given, "model.dtype=float32", "rollout.ready_timeout_s=600"])
        found = json.loads((folder / "evaluation" / "evaluation.json").read_text())
        average = found["sampled"]["average"]["value"] if found.get("sampled") else None
        return Result(run.variant, run.budget, run.seed, run.lr, found["pass_at_1"], average, found["problems"])


def _python(command: str, run_dir: Path, overrides: Sequence[str]) -> None:
    """A command of the package in its own processes; what it says stands in <run_dir>.log.

    Raises:
        RuntimeError: it failed, or was not done after DEADLINE_S.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.with_name(run_dir.name + ".log")
    environment = {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", **os.environ}
    with open(log, "w", encoding="utf-8") as file:
        words = [sys.executable, "-m", f"megatron_oreal.{command}", *overrides, f"run_dir={run_dir}"]
        done = subprocess.run(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=DEADLINE_S)
    if done.returncode:
        raise RuntimeError(f"megatron_oreal.{command} ended with {done.returncode}; its last words are in {log}")
