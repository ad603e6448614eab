"""Reports as a page to be read, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from megatron_oreal.evaluation.figures import Evaluation, Report
from megatron_oreal.evaluation.statistics import Estimate


def as_json(model: str, reports: Mapping[str, Report], seconds: float) -> dict:
    """All figures; those of an only set also at the top."""
    tables = {name: {"by_subject": _plain(one.by_subject), "by_level": _plain(one.by_level)} for name, one in reports.items()}
    sets = {name: asdict(one.all) | tables[name] for name, one in reports.items()}
    only = next(iter(sets.values())) if len(sets) == 1 else {}
    return {"model": model, **{k: v for k, v in only.items() if not k.startswith("by_")}, "seconds": seconds, "sets": sets}


def _plain(parts: Mapping[str, Evaluation]) -> dict:
    return {name: asdict(figures) for name, figures in parts.items()}


def as_markdown(model: str, reports: Mapping[str, Report]) -> str:
    """One table of the sets, then each set by subject and by level."""
    parts = [
        f"# Evaluation of {_cell(model)}",
        "Percent, with 95 % intervals over questions. Lengths: mean, median and 95th percentile in tokens. After a stroke: of the sampled "
        "answers. Cut: share of answers that met the length limit, or an end token that is not the stop word.",
        table("set", {name: one.all for name, one in reports.items()}),
    ]
    for name, one in reports.items():
        for label, figures in (("subject", one.by_subject), ("level", one.by_level)):
            if figures:
                parts += [f"## {_cell(name)} by {label}", table(label, figures)]
    return "\n\n".join(parts) + "\n"


def table(label: str, rows: Mapping[str, Evaluation]) -> str:
    """A row a set, subject or level; the columns that any of them has."""
    columns = ["problems", "pass@1", *_sampled_columns(rows.values()), "lengths", "cut", "undecided", "not asked"]
    lines = ["| " + " | ".join([label, *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in rows.items():
        cells = _cells(figures)
        lines.append("| " + " | ".join([_cell(name), *(cells.get(column, "") for column in columns)]) + " |")
    return "\n".join(lines)


def _sampled_columns(rows: Sequence[Evaluation]) -> list[str]:
    found = [column for figures in rows if figures.sampled for column in _of_samples(figures)]
    return list(dict.fromkeys(found))


def _of_samples(figures: Evaluation) -> dict[str, str]:
    sampled = figures.sampled
    if sampled is None:
        return {}
    pass_at = {f"pass@{k} of {sampled.samples}": _share(estimate) for k, estimate in sampled.pass_at.items()}
    return {f"avg@{sampled.samples}": _share(sampled.average)} | pass_at | {f"majority@{sampled.samples}": _share(sampled.majority)}


def _cells(figures: Evaluation) -> dict[str, str]:
    sampled = figures.sampled
    return {
        "problems": str(figures.problems),
        "pass@1": _share(Estimate(figures.pass_at_1, *figures.pass_at_1_interval)),
        **_of_samples(figures),
        "lengths": _both(_lengths(figures), _lengths(sampled) if sampled else None),
        "cut": _both(f"{100 * figures.incomplete:.1f}", f"{100 * sampled.incomplete:.1f}" if sampled else None),
        "undecided": _both(str(figures.undecided), str(sampled.undecided) if sampled else None),
        "not asked": str(figures.not_asked),
    }


def _lengths(figures) -> str:
    return f"{figures.length_mean:.0f}, {figures.length_median:.0f}, {figures.length_p95:.0f}"


def _both(greedy: str, sampled: str | None) -> str:
    return greedy if sampled is None else f"{greedy} / {sampled}"


def _share(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _cell(text: str) -> str:
    """Text from a file in a table: it stays in its cell, and is no markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
