"""A run's folder as a report sees it: its figures, read whole. Its trajectories are many, and read step by step (trajectories.py)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

METRICS, SUMMARY, ABLATION = "metrics.jsonl", "summary.json", "ablation.json"


@dataclass(frozen=True)
class Curves:
    """metrics.jsonl by name instead of by step."""

    steps: list[int]
    values: dict[str, list[float | None]]  # name -> [steps]; None where the step has no such value


@dataclass(frozen=True)
class Ablation:
    """The table that tools/bench_ablation.py leaves."""

    seeds: list[str]
    rows: dict[str, list[float]]  # variant -> [seeds], held-out pass@1 in [0, 1]


@dataclass(frozen=True)
class Run:
    """What a report shows besides trajectories."""

    folder: Path
    curves: Curves
    summary: dict[str, float]
    ablation: Ablation | None


def read_run(folder: Path) -> Run:
    """The run that left this folder; it may still be going on.

    Raises:
        ValueError: no run's folder, or a file of it is damaged; with file and line.
    """
    ablation = _ablation(folder)
    if not (folder / METRICS).is_file() and ablation is None:
        raise ValueError(f"{folder}: no run's folder, it holds neither {METRICS} nor {ABLATION}")
    summary = _object(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    return Run(folder, _curves(folder / METRICS), summary, ablation)


def _curves(path: Path) -> Curves:
    """Rows of the same step are one: an evaluation before a resumed step has a row of its own."""
    by_step: dict[int, dict[str, float | None]] = {}
    for number, line in _whole_lines(path):
        try:
            row = json.loads(line)
            by_step.setdefault(int(row.pop("step")), {}).update({name: None if v is None else float(v) for name, v in row.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: no row of metrics: {error!r}") from error
    steps = sorted(by_step)
    names = dict.fromkeys(name for step in steps for name in by_step[step])
    return Curves(steps, {name: [by_step[step].get(name) for step in steps] for name in names})


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line); a last line that is still being written is left out."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            yield number, line


def _ablation(folder: Path) -> Ablation | None:
    """In the folder of the benchmark, or one above: that of a seed's demo, which is a run of its own."""
    path = next((f / ABLATION for f in (folder, folder.resolve().parent) if (f / ABLATION).is_file()), None)
    if path is None:
        return None
    table = _object(path)
    try:
        seeds = list(next(iter(table.values())))
        return Ablation(seeds, {name: [float(by_seed[s]) for s in seeds] for name, by_seed in table.items()})
    except (StopIteration, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no ablation table of tools/bench_ablation.py: {error!r}") from error


def _object(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object is expected")
    return value
