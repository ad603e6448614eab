"""What a check found, and how it is shown: one line each, with what to do where something is to be done."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")
OK, LEFT_OUT, WARNING, ERROR = "ok", "left out", "warning", "error"
LEVELS = (OK, LEFT_OUT, WARNING, ERROR)


@dataclass(frozen=True)
class Finding:
    """One line."""

    level: str  # one of LEVELS
    check: str  # a word or two
    text: str  # what was found
    advice: str = ""  # what to do about it


class Findings:
    """The findings of one node, in the order of looking."""

    def __init__(self):
        self.all: list[Finding] = []

    def add(self, level: str, check: str, text: str, advice: str = "") -> None:
        self.all.append(Finding(level, check, " ".join(text.split()), advice))

    def try_out(self, check: str, advice: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `work` returns; None, and an error is noted, where it raises ValueError or OSError."""
        try:
            return work(*args, **kwargs)
        except (ValueError, OSError) as error:
            self.add(ERROR, check, str(error), advice)
            return None


def report(nodes: Sequence[str], findings: Sequence[Sequence[Finding]]) -> tuple[list[str], int]:
    """Lines to print, what several nodes found alike once, and the exit status: 1 where there is an error.

    Args:
        nodes: their names.
        findings: of each.
    """
    where = defaultdict(list)
    for node, some in zip(nodes, findings, strict=True):
        for finding in some:
            where[finding].append(node)
    lines = [_line(finding, _named(at, len(nodes))) for finding, at in where.items()]
    counts = {level: sum(finding.level == level for finding in where) for level in LEVELS}
    lines.append("preflight: " + ", ".join(f"{count} {level}" for level, count in counts.items()))
    return lines, int(counts[ERROR] > 0)


def _named(some: list[str], total: int) -> str:
    if total == 1:
        return ""
    if len(some) == total:
        return f" [all {total} nodes]"
    return f" [{', '.join(some[:4])}{f' and {len(some) - 4} more' if len(some) > 4 else ''}]"


def _line(finding: Finding, where: str) -> str:
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{finding.level:9}{finding.check:14}{finding.text}{where}{advice}"
