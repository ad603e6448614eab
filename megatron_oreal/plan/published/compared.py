"""Predicted beside published: what a row comes to, and how far a set of rows lies apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median
from typing import Literal

Part = Literal["step", "rollout", "train", "logprobs", "decode", "prefill", "throughput"]
PARTS: tuple[Part, ...] = ("decode", "prefill", "rollout", "logprobs", "train", "step", "throughput")


@dataclass(frozen=True)
class Compared:
    """A figure of a row, in its unit."""

    id: str
    part: Part
    predicted: float
    published: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.published

    @property
    def apart(self) -> float:
        """|log ratio|."""
        return abs(log(self.ratio))


@dataclass(frozen=True)
class Left:
    """A row, or a figure of it, without a prediction."""

    id: str
    reason: str


UNREADABLE = (KeyError, TypeError, AttributeError)
"""What a field of another kind than expected, or none, ends in: rows are others', and each is answered for."""


def said(reason: Exception) -> str:
    """Why there is no prediction."""
    return f"a field is missing or of another kind ({type(reason).__name__}: {reason})" if isinstance(reason, UNREADABLE) else str(reason)


@dataclass(frozen=True)
class Spread:
    """Of |log ratio| over a set of figures, as factors: 1.1 is ten per cent off, on either side."""

    count: int
    median: float
    ninetieth: float
    within_half: float  # share of figures within a factor of 1.5
    range: tuple[float, float]  # of published over predicted: at least nine of ten figures, as many left out above as below


def spread(rows: Sequence[Compared]) -> Spread:
    """Of figures, of which there is at least one."""
    apart = sorted(row.apart for row in rows)
    ninetieth = apart[min(len(apart) - 1, round(0.9 * (len(apart) - 1)))]
    close = sum(a <= log(1.5) for a in apart) / len(apart)
    over, cut = sorted(1 / row.ratio for row in rows), len(rows) // 20
    return Spread(len(apart), exp(median(apart)), exp(ninetieth), close, (over[cut], over[-1 - cut]))


def as_text(rows: Sequence[Compared], left: Iterable[Left]) -> str:
    """Every figure, the spread of each part, and what was left out."""
    lines = [f"{'row':<82}{'part':<12}{'predicted':>10}{'published':>10}{'ratio':>7}"]
    lines += [f"{r.id[:80]:<82}{r.part:<12}{r.predicted:>10.4g}{r.published:>10.4g}{r.ratio:>7.2f}" for r in rows]
    lines += ["", f"{'|log ratio|, as a factor':<26}{'figures':>8}{'median':>8}{'90th':>8}{'within 1.5':>12}{'nine of ten':>16}"]
    for name in (*PARTS, "all"):
        some = [r for r in rows if name in ("all", r.part)]
        if some:
            s = spread(some)
            between = "{:.2f} to {:.2f}".format(*s.range)
            lines.append(f"{name:<26}{s.count:>8}{s.median:>8.2f}{s.ninetieth:>8.2f}{s.within_half:>12.0%}{between:>16}")
    lines += ["", *(f"left out: {one.id}: {one.reason}" for one in left)]
    return "\n".join(lines)


def as_json(rows: Sequence[Compared], left: Iterable[Left]) -> dict:
    """{"rows": [{"id", "part", "predicted", "published"}], "cannot": [{"id", "reason"}]}."""
    figures = [{"id": r.id, "part": r.part, "predicted": r.predicted, "published": r.published} for r in rows]
    return {"rows": figures, "cannot": [{"id": one.id, "reason": one.reason} for one in left]}
