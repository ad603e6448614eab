"""Runs that were never run: the files that a run leaves, with known or many trajectories."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from megatron_oreal.monitor.recorded import FOLDER, Weighted, weights_file, write_step
from megatron_oreal.trajectory import Group, Prompt, Trajectory, Verdict

WORDS = [
    "we",
    "have",
    "so",
    "then",
    "the",
    "sum",
    "of",
    "is",
    "equal",
    "to",
    "half",
    "therefore",
    "let",
    "be",
    "an",
    "integer",
    "with",
    "2",
    "3",
    "5",
    "7",
    "11",
    "$x^2+1$",
    "$\\frac{1}{2}$",
    "thus",
    "angle",
]


def write_metrics(run_dir: Path, steps: int, **more: float) -> None:
    """Curves that rise and fall, the parts of a step's time, one metric that never changes, and what an ended run sums up."""
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = [{"step": 0, "eval/pass_at_1": 0.25}]
    for step in range(1, steps + 1):
        seconds = {
            "time/rollout": 3.0,
            "time/verify_tail": 1.0,
            "time/policy": 2.0,
            "time/sync": 1.0,
            "time/sync_proof": 0.5,
            "time/step": 7.0,
        }
        rows.append({"step": step, "reward/mean": step / steps - 0.5, "loss/total": 1 / step, "select/questions": 4, **seconds, **more})
    rows[-1] |= {"eval/pass_at_1": 0.75, "loss/total": None}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run_dir / "summary.json").write_text(json.dumps({"steps": steps, "seconds": 12.5, "pass_at_1_start": 0.25, "pass_at_1_end": 0.75}))


def group(id: str, question: str, gold: str, answers: Sequence[tuple[str, list[str], bool]], left_out: bool = False) -> Group:
    """`answers`: text, pieces, is it right. `left_out`: all but the first could not be told."""
    prompt = Prompt(id, question, gold, [1, 2, 3])
    trajectories = [
        Trajectory(prompt, i, list(range(len(p))), [-0.25 * (t % 4) for t in range(len(p))], text, "stop", version=3)
        for i, (text, p, _) in enumerate(answers)
    ]
    verdicts = [Verdict(right, "equal" if right else "different") for _, _, right in answers]
    if left_out:
        verdicts[1:] = [Verdict(False, "timeout", decided=False, left_out=True) for _ in verdicts[1:]]
    return Group(prompt, trajectories, verdicts)


def write_weights(run_dir: Path, step: int, rows: Sequence[Weighted]) -> None:
    """As recorded.write_weights does, which takes tokens and a tokenizer."""
    weights_file(run_dir / FOLDER, step).write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def write_many(run_dir: Path, steps: int, questions: int, samples: int, tokens: int) -> None:
    """steps x questions x samples trajectories of so many tokens; two of each question are trained on. "needle" is in the last one."""
    draw = random.Random(0)
    write_metrics(run_dir, steps)
    for step in range(1, steps + 1):
        groups, weighted = [], []
        for q in range(questions):
            answers = []
            for k in range(samples):
                pieces = [f"{draw.choice(WORDS)} " for _ in range(tokens - 1)] + [
                    "needle" if (step, q, k) == (steps, questions - 1, samples - 1) else "."
                ]
                answers.append(("".join(pieces), pieces, k % 2 == 0))
            id = f"{q}#{step * questions + q}"
            groups.append(group(id, f"Question {q}: what is $x_{{{q}}}$?", str(q), answers))
            weighted += [Weighted(id, k, answers[k][1], [round(draw.random(), 5) for _ in range(tokens)]) for k in (0, 1)]
        write_step(run_dir / FOLDER, step, groups)
        write_weights(run_dir, step, weighted)
