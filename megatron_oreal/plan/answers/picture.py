"""A plan as one SVG: memory of every stage's GPU by part, and a step from its beginning to its end."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from megatron_oreal.devices import DEVICES, GIB
from megatron_oreal.plan.fit import Plan, Stage

WIDTH, BAR, GAP, LEFT, RIGHT = 960, 22, 4, 150, 80
LETTER = 6.6
"""Pixels of one, at most, on average."""
COLOURS = {
    "weights": "#4e79a7",
    "gradients": "#76b7b2",
    "optimizer": "#59a14f",
    "activations": "#f28e2b",
    "process, buffers": "#9c755f",
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
    capacity, (low, high) = DEVICES[plan.config.plan.gpu].memory, plan.likely
    full = max(capacity, plan.fullest) / GIB
    body, y = [], 30
    body += _text(10, 18, f"{plan.model.source} on {plan.config.plan.gpus} x {plan.config.plan.gpu}: GiB a GPU, of {capacity / GIB:.1f}")
    for stage in plan.stages:
        for when, pieces in (("training", _training(stage)), ("sampling", _sampling(stage))):
            body += _bar(y, f"stage {stage.stage}, {when}", [(what, n / GIB) for what, n in pieces], full, "GiB")
            y += BAR + GAP
        y += 2 * GAP
    if plan.fullest > capacity:
        x = LEFT + (WIDTH - LEFT - RIGHT) * capacity / plan.fullest
        body.append(f'<path d="M{x:.1f} 26V{y - 2 * GAP}" stroke="#d00" stroke-width="2"/>')
    body += _legend(y, [(what, what) for what, _ in _training(plan.stages[0])])
    y += 60
    step = [(p.name, p.seconds) for p in plan.parts if not p.overlapped]
    body += _text(10, y - 10, f"a step: {plan.seconds:.0f} s ({low:.0f} to {high:.0f})")
    body += _bar(y, "seconds", step, plan.seconds, "s")
    body += _legend(y + BAR + 2 * GAP, [(name, f"{name} {seconds:.1f} s") for name, seconds in step])
    height = y + 2 * BAR + 4 * GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join((head, f'<rect width="{WIDTH}" height="{height}" fill="white"/>', *body, "</svg>\n"))


def _training(stage: Stage) -> Pieces:
    return [*_state(stage), ("activations", stage.activations), ("process, buffers", stage.allowance), ("engine", stage.released)]


def _sampling(stage: Stage) -> Pieces:
    return [*_state(stage), ("process, buffers", stage.sync), ("engine", stage.engine)]


def _state(stage: Stage) -> Pieces:
    names = ("weights", "gradients", "optimizer")
    return [(name, sum(getattr(m, name) for m in stage.models) + stage.fp8 * (name == "weights")) for name in names]


def _bar(y: float, name: str, pieces: Pieces, full: float, unit: str) -> Iterator[str]:
    """Each piece with its size where that has room, and where the pointer rests on it; their sum beside them."""
    yield from _text(10, y + 15, name)
    x, scale = LEFT, (WIDTH - LEFT - RIGHT) / full
    for what, size in pieces:
        width = size * scale
        yield f"<g><title>{escape(f'{what} {size:.1f} {unit}')}</title>"
        yield f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[what]}"/>'
        said = f"{size:.1f}"
        if width > LETTER * (len(said) + 1):
            yield f'<text x="{x + width / 2:.1f}" y="{y + 15}" fill="white" text-anchor="middle">{said}</text>'
        yield "</g>"
        x += width
    yield f'<rect x="{LEFT}" y="{y}" width="{full * scale:.1f}" height="{BAR}" fill="none" stroke="#888"/>'
    yield from _text(WIDTH - RIGHT + 8, y + 15, f"{sum(size for _, size in pieces):.1f} {unit}")


def _legend(y: float, entries: list[tuple[str, str]]) -> Iterator[str]:
    """(what, how it is called), side by side."""
    x = float(LEFT)
    for what, said in entries:
        yield f'<rect x="{x:.1f}" y="{y}" width="12" height="12" fill="{COLOURS[what]}"/>'
        yield from _text(x + 17, y + 11, said)
        x += 17 + LETTER * len(said) + 18


def _text(x: float, y: float, said: str) -> Iterator[str]:
    yield f'<text x="{x:.1f}" y="{y}">{escape(said)}</text>'
