"""metrics.jsonl: one object a step, names like loss/positive; written as it happens."""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from megatron_oreal.trajectory import NEITHER, RIGHT, Group, SelectionCounts, TrainBatch, Trajectory, Verdict


class MetricsLog:
    """Appends to <run>/metrics.jsonl; a crash loses at most the line being written."""

    def __init__(self, run_dir: str | Path, after_step: int | None = None, seconds: float = 0.0):
        """A run that goes on after `after_step`, `seconds` old by then, keeps the rows up to there; else the file starts empty."""
        path = Path(run_dir) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if after_step is None else _rows_up_to(path, after_step)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.rename(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (lives as long as the run)
        self._start = time.time() - seconds

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line; a value that is not finite becomes null, which JSON can hold."""
        row = {"step": step, "time/elapsed": round(time.time() - self._start, 3)}
        row |= {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _rows_up_to(path: Path, step: int) -> list[str]:
    """The whole lines of the steps up to `step`; what a killed run wrote beyond its checkpoint is done again."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]


def _stale_tokens(group: Group) -> int:
    """Sampled by an earlier version than the newest that sampled for this question: before a cut, or all of those that ended before it."""
    newest = max(t.version for t in group.trajectories)
    return sum(
        len(t.token_ids) if t.version < newest else sum(span.tokens for span in t.earlier if span.version < newest)
        for t in group.trajectories
    )


def sampled_tokens(groups: Sequence[Group]) -> int:
    """Response tokens that came since the iteration began."""
    return sum(len(t.token_ids) - sum(span.tokens for span in t.earlier) for g in groups for t in g.trajectories)


def _versions_behind(trajectories: Sequence[Trajectory]) -> int:
    """How many versions the oldest token lies behind the newest."""
    versions = [version for t in trajectories for version in (t.version, *(span.version for span in t.earlier))]
    return max(versions) - min(versions)


def _pass_rate_histogram(groups: Sequence[Group]) -> dict[str, float]:
    """Share of the questions with 0, 1, ... K right ones of K samples; the nearest of them where verdicts are left out."""
    samples = max(len(g.trajectories) for g in groups)
    told = [round(g.pass_rate * samples) for g in groups if g.pass_rate is not None]
    width = len(str(samples))
    return {f"reward/pass_rate_hist/{right:0{width}}": told.count(right) / max(len(told), 1) for right in range(samples + 1)}


def rollout_metrics(groups: Sequence[Group], counts: SelectionCounts) -> dict[str, float]:
    """What an iteration's trajectories looked like, over all questions and samples; rewards over those that are right or wrong."""
    trajectories = [t for g in groups for t in g.trajectories]
    verdicts = [v for g in groups for v in g.verdicts]
    rewards = [r for g in groups for r in g.rewards if r != NEITHER]
    lengths = [len(t.token_ids) for t in trajectories]
    stale = sum(_stale_tokens(g) for g in groups)
    return {
        "reward/mean": _mean(rewards),
        "reward/pass_rate": _mean([r == RIGHT for r in rewards]),
        **_pass_rate_histogram(groups),
        "verify/undecided": sum(not v.decided for v in verdicts),
        "verify/left_out": sum(v.left_out for v in verdicts),
        **{f"verify/undecided/{reason}": times for reason, times in sorted(Counter(_reasons(verdicts)).items())},
        "response/length_mean": sum(lengths) / len(lengths),
        "response/length_median": median(lengths),
        "response/length_max": max(lengths),
        "response/truncated": sum(t.finish == "length" for t in trajectories) / len(trajectories),
        "response/incomplete": sum(not t.complete for t in trajectories) / len(trajectories),
        "response/stale_tokens": stale / max(sum(lengths), 1),
        "response/versions_behind": _versions_behind(trajectories),
        "select/questions": counts.questions,
        "select/kept": counts.kept,
        "select/dropped_all_right": counts.dropped_all_right,
        "select/dropped_all_wrong": counts.dropped_all_wrong,
        "select/dropped_undecided": counts.dropped_undecided,
        "select/empty_responses": counts.empty_responses,
    }


def origin_metrics(groups: Sequence[Group], batch: TrainBatch) -> dict[str, float]:
    """Where several sets are mixed: of each how many questions came, their share of right answers, and how many are trained on."""
    kept, of_set = {sample.prompt_id for sample in batch.samples}, defaultdict(list)
    for group in groups:
        if group.prompt.origin:
            of_set[group.prompt.origin].append(group)
    found = {}
    for name, some in sorted(of_set.items()):
        rewards = [reward for group in some for reward in group.rewards if reward != NEITHER]
        found[f"data/{name}/questions"] = len(some)
        found[f"data/{name}/pass_rate"] = _mean([reward == RIGHT for reward in rewards])
        found[f"data/{name}/kept"] = sum(group.prompt.id in kept for group in some)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _reasons(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why verdicts are undecided, without what is said of the single case: "answer_not_read", "timeout", "judge_unclear", ..."""
    for reason in (v.reason for v in verdicts if not v.decided):
        who, _, what = reason.partition(": ")
        yield (f"judge {what.partition(', ')[0]}" if who == "judge" else who).replace(" ", "_")
