"""Figures and tables of the ablation on the chains, out of what its runs left: pure but for reading files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from megatron_oreal.evaluation.statistics import student
from megatron_oreal.monitor.calibration import auc
from megatron_oreal.monitor.recorded import FOLDER, Marked, Weighted, read_step, read_weights, write_marks
from tools.ablation_variants import BASELINE, OREAL, SAME_PAIRS, SAMPLED, START, TRAINED, VARIANTS, Run, budget_of
from tools.make_chains import WrongStep, first_wrong_step

WEIGHED = {
    "rm_auc": "token RM's score, right from wrong answers",
    "step_auc": "weight, first wrong step's tokens from all others",
    "step_auc_before": "weight, first wrong step's tokens from those before it",
    "weight_right": "mean weight, right answers",
    "weight_wrong": "mean weight, wrong answers",
    "zero_right": "share of weights that are 0, right answers",
    "zero_wrong": "share of weights that are 0, wrong answers",
}
"""Figures of a run with a token RM, over the steps at which the policy was trained."""


@dataclass(frozen=True)
class Result:
    """A run and what came of it."""

    variant: str
    budget: str
    seed: int
    lr: float
    greedy: float  # held-out pass@1, in [0, 1]
    average: float | None  # avg@8; None where it was not sampled
    problems: int
    updates: int = 0
    sampled_tokens: int = 0
    trained: int = 0  # trajectories that the policy was trained on
    seconds: float = 0.0
    weighed: dict[str, float] | None = None  # see WEIGHED; None: no token RM, or not recorded

    @property
    def key(self) -> Run:
        return Run(self.variant, self.budget, self.seed, self.lr)


def counted(metrics: Sequence[Mapping[str, float]], samples: int, keeps_all: bool) -> dict[str, int]:
    """updates, sampled_tokens and trained of a run's metrics.jsonl."""
    steps = [row for row in metrics if "select/questions" in row]
    updated = [row for row in steps if "loss/total" in row]
    kept = sum(row["select/kept"] * (samples if keeps_all else 2) for row in updated)
    tokens = sum(row["response/length_mean"] * row["select/questions"] * samples for row in steps)
    return {"updates": len(updated), "sampled_tokens": round(tokens), "trained": int(kept)}


def chosen_rates(results: Sequence[Result], seeds: Sequence[int]) -> dict[tuple[str, str], list[float]]:
    """Of each variant the rate with the best mean greedy pass@1 over these seeds at equal samples; the smaller one of equals.

    Raises:
        ValueError: a variant has no rate that all seeds were run with.
    """
    best = {}
    for variant in VARIANTS:
        by_rate: dict[float, dict[int, float]] = {}
        for one in results:
            if (one.variant, one.budget) == (variant.name, SAMPLED) and one.seed in seeds:
                by_rate.setdefault(one.lr, {})[one.seed] = one.greedy
        means = {rate: fmean(found.values()) for rate, found in by_rate.items() if len(found) == len(seeds)}
        if not means:
            raise ValueError(f"{variant.name!r}: no learning rate has been run on all of the seeds {list(seeds)}; tune first")
        best |= {(variant.name, budget): [max(sorted(means), key=means.__getitem__)] for budget in (SAMPLED, TRAINED)}
    return best


def interval(differences: Sequence[float]) -> tuple[float, float | None]:
    """Their mean, and half the width of its 95 % interval (Student's); None of fewer than two."""
    if len(differences) < 2:
        return fmean(differences), None
    return fmean(differences), student(len(differences) - 1) * stdev(differences) / len(differences) ** 0.5


def tuning_table(results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Markdown: mean greedy pass@1 of every variant and rate over those seeds that were run."""
    rates = sorted({one.lr for one in results if one.variant != START and one.seed in seeds})
    lines = ["| greedy pass@1, % | equal | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" * (len(rates) + 2) + "|"]
    for variant, budget in dict.fromkeys((one.variant, one.budget) for one in results if one.variant != START):
        found = [
            [r.greedy for r in results if (r.variant, r.budget, r.lr) == (variant, budget, rate) and r.seed in seeds] for rate in rates
        ]
        cells = [f"{100 * fmean(values):.1f} ({len(values)})" if values else "" for values in found]
        lines.append(f"| {variant} | {budget} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(results: Sequence[Result], budget: str, seeds: Sequence[int]) -> str:
    """Markdown: a row a variant, of the seeds that every one of them has been run with."""
    rows = _rows(results, budget)
    common = [seed for seed in seeds if all(seed in found for found in rows.values())]
    if not common:
        return f"equal {budget}: no seed has been run with every variant yet"
    head = [
        "equal " + budget,
        "rate",
        "greedy",
        "avg@8",
        f"greedy - {BASELINE}",
        f"avg@8 - {BASELINE}",
        "tokens sampled",
        "trained on",
        "updates",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, found in rows.items():
        mine, base = [found[seed] for seed in common], [rows[BASELINE][seed] for seed in common]
        against = [_difference(mine, base, field) if name not in (START, BASELINE) else "" for field in ("greedy", "average")]
        counts = [f"{fmean(getattr(one, field) for one in mine):,.0f}" for field in ("sampled_tokens", "trained", "updates")]
        cells = [name, f"{mine[0].lr:g}", _mean(mine, "greedy"), _mean(mine, "average"), *against, *counts]
        lines.append("| " + " | ".join(cells) + " |")
    pairs = [[rows[name][seed] for seed in common] for name in (OREAL, SAME_PAIRS)]
    gain = ", ".join(f"{field} {_difference(*pairs, field)}" for field in ("greedy", "average"))
    return "\n".join([*lines, "", f"{OREAL} - {SAME_PAIRS}: {gain}. Seeds {', '.join(map(str, common))}."])


def weights_table(results: Sequence[Result], seeds: Sequence[int]) -> str:
    """Markdown: what the token RMs of these seeds' runs were worth, means over seeds."""
    names = [v.name for v in VARIANTS if v.token_rm]
    found = {name: [r.weighed for r in results if r.variant == name and r.seed in seeds and r.weighed] for name in names}
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for field, meaning in WEIGHED.items():
        values = {name: [one[field] for one in some if field in one] for name, some in found.items()}
        lines.append(f"| {meaning} | " + " | ".join(f"{fmean(v):.3f} ({len(v)})" if v else "" for v in values.values()) + " |")
    return "\n".join(lines)


def ablation_json(results: Sequence[Result], budget: str) -> dict[str, dict[int, float]]:
    """For `megatron-oreal report`: greedy pass@1 by variant and seed, of the seeds that every variant has been run with."""
    rows = _rows(results, budget)
    common = [seed for seed in rows[START] if all(seed in found for found in rows.values())]
    return {name: {seed: found[seed].greedy for seed in common} for name, found in rows.items()}


def _rows(results: Sequence[Result], budget: str) -> dict[str, dict[int, Result]]:
    """Of a table: by variant and seed."""
    return {START: _of(results, START, "")} | {v.name: _of(results, v.name, budget_of(v, budget)) for v in VARIANTS}


def _of(results: Sequence[Result], variant: str, budget: str) -> dict[int, Result]:
    return {one.seed: one for one in results if (one.variant, one.budget) == (variant, budget)}


def _mean(results: Sequence[Result], field: str) -> str:
    values = [getattr(one, field) for one in results]
    return "" if None in values else f"{100 * fmean(values):.1f}"


def _difference(mine: Sequence[Result], other: Sequence[Result], field: str) -> str:
    pairs = [(getattr(a, field), getattr(b, field)) for a, b in zip(mine, other, strict=True)]
    if any(None in pair for pair in pairs):
        return ""
    mean, half = interval([100 * (a - b) for a, b in pairs])
    return f"{mean:+.1f}" + ("" if half is None else f" ± {half:.1f}")


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    with open(run_dir / "metrics.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def weighed(run_dir: Path, frozen: int) -> dict[str, float]:
    """WEIGHED of a recorded run, `frozen` steps left out; marks the first wrong steps for `megatron-oreal report` on the way."""
    folder, found = run_dir / FOLDER, {name: [] for name in WEIGHED}
    metrics = {int(row["step"]): row for row in read_metrics(run_dir) if "token_rm/auc" in row}
    for path in sorted(folder.glob("weights-*.jsonl")):
        step = int(path.stem.partition("-")[2])
        rows = list(located(folder, step))
        write_marks(folder, step, [Marked(w.prompt_id, w.index, wrong.begin, wrong.end) for w, _, wrong in rows if wrong])
        if step <= frozen:
            continue
        found["rm_auc"] += [metrics[step]["token_rm/auc"]] if step in metrics else []
        for one, right, wrong in rows:
            side = "right" if right else "wrong"
            found[f"weight_{side}"].append(fmean(one.weights))
            found[f"zero_{side}"].append(fmean(weight == 0 for weight in one.weights))
            for name, area in step_aucs(one, wrong).items() if wrong and not right else ():
                found[name].append(area)
    return {name: fmean(values) for name, values in found.items() if values}


def located(folder: Path, step: int) -> Iterator[tuple[Weighted, bool, WrongStep | None]]:
    """The trajectories that a step was trained on, with their verdicts and first wrong steps."""
    groups = {group.prompt.id: group for group in read_step(folder, step)}
    for one in read_weights(folder, step):
        group = groups[one.prompt_id]
        place = next(i for i, t in enumerate(group.trajectories) if t.index == one.index)
        wrong = first_wrong_step(group.prompt.question, group.trajectories[place].text)
        yield one, group.verdicts[place].right, wrong


def step_aucs(one: Weighted, wrong: WrongStep) -> dict[str, float]:
    """Within one trajectory: how well its weights tell the tokens of the wrong step from all others, and from those before it.

    0.5 is chance, equal weights count half. Without the one that has no others to compare with.
    """
    import torch

    ends = [0]
    for piece in one.pieces:
        ends.append(ends[-1] + len(piece))
    inside = torch.tensor([begin < wrong.end and end > wrong.begin for begin, end in zip(ends, ends[1:], strict=False)])
    before = torch.tensor([end <= wrong.begin for end in ends[1:]])
    weights = torch.tensor(one.weights, dtype=torch.float64)
    areas = {"step_auc": auc(weights, inside), "step_auc_before": auc(weights[inside | before], inside[inside | before])}
    return {name: area for name, area in areas.items() if area is not None}
