"""A plan as one SVG: memory of every stage's GPU by part, and a step from its beginning to its end."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.plan.fit import Plan, Stage

WIDTH, BAR, GAP, LEFT = 960, 22, 8, 190
COLOURS = {
    "weights": "#4e79a7",
    "gradients": "#76b7b2",
    "optimizer": "#59a14f",
    "activations": "#f28e2b",
    "else": "#9c755f",
    "engine": "#b07aa1",
    "rollout": "#b07aa1",
    "token RM": "#59a14f",
    "reference": "#76b7b2",
    "policy": "#4e79a7",
    "sync": "#e15759",
}
Pieces = list[tuple[str, float]]
"""(what, how much)."""


def write(plan: Plan, file: Path) -> None:
    """Raises OSError where it cannot be written."""
    file.write_text(svg(plan), encoding="utf-8")


def svg(plan: Plan) -> str:
    """The whole picture."""
    bars = [
        (f"stage {s.stage}, {when}", pieces)
        for s in plan.stages
        for when, pieces in (("training", _training(s)), ("sampling", _sampling(s)))
    ]
    step = [(p.name, p.seconds) for p in plan.parts if not p.overlapped]
    capacity = DEVICES[plan.config.plan.gpu].memory
    body, y = [], 30
    body += _text(10, 18, f"{plan.model.source} on {plan.config.plan.gpus} x {plan.config.plan.gpu}: GiB a GPU, of {capacity / GIB:.1f}")
    for name, pieces in bars:
        body += _bar(y, name, [(what, n / GIB) for what, n in pieces], max(capacity, plan.fullest) / GIB, "GiB")
        y += BAR + GAP
    body += _text(10, y + 22, f"a step: {plan.seconds:.0f} s")
    body += _bar(y + 34, "seconds", step, plan.seconds, "s")
    height = y + 34 + BAR + GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join((head, *body, "</svg>\n"))


def _training(stage: Stage) -> Pieces:
    return [*_state(stage), ("activations", stage.activations), ("else", stage.allowance), ("engine", stage.released)]


def _sampling(stage: Stage) -> Pieces:
    return [*_state(stage), ("else", stage.sync), ("engine", stage.engine)]


def _state(stage: Stage) -> Pieces:
    names = ("weights", "gradients", "optimizer")
    return [(name, sum(getattr(m, name) for m in stage.models) + stage.fp8 * (name == "weights")) for name in names]


def _bar(y: float, name: str, pieces: Pieces, full: float, unit: str) -> Iterator[str]:
    """Each piece with its name where it has room, and with its size where the pointer rests on it."""
    yield from _text(10, y + 15, name)
    x, scale = LEFT, (WIDTH - LEFT - 20) / full
    for what, size in pieces:
        width = size * scale
        said = escape(f"{what} {size:.1f} {unit}")
        yield f'<g><title>{said}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[what]}"/>'
        if width > 7 * len(said):
            yield f'<text x="{x + 4:.1f}" y="{y + 15}" fill="white">{said}</text>'
        yield "</g>"
        x += width
    yield f'<rect x="{LEFT}" y="{y}" width="{full * scale:.1f}" height="{BAR}" fill="none" stroke="#888"/>'


def _text(x: float, y: float, said: str) -> Iterator[str]:
    yield f'<text x="{x}" y="{y}">{escape(said)}</text>'
