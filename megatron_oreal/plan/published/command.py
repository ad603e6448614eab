"""`megatron-oreal plan --published FILE`: rows of either kind of file, in their order."""

import json
from collections.abc import Iterator
from pathlib import Path

from megatron_oreal.plan.published import serving, steps
from megatron_oreal.plan.published.compared import UNREADABLE, Compared, Left, said
from megatron_oreal.plan.published.models import Cannot

STEPS = ("rl_step", "train_only")


def compare(file: Path) -> tuple[list[Compared], list[Left]]:
    """All rows of a file of JSON lines.

    Raises:
        ValueError: a line is no JSON object with an id, a kind and figures.
    """
    outcomes = [outcome for row in _read(file) for outcome in _outcomes(row)]
    return [o for o in outcomes if isinstance(o, Compared)], [o for o in outcomes if isinstance(o, Left)]


def _outcomes(fields: dict) -> Iterator[Compared | Left]:
    """Something of every row: where none of its figures has a prediction, why."""
    row = (steps if fields["kind"] in STEPS else serving).Row(fields)
    some = False
    try:
        for outcome in row.compared():
            some = True
            yield outcome
        if not some:
            yield Left(row.id, f"none of its figures is one that a plan has: {', '.join(fields['figures'])}")
    except (*UNREADABLE, Cannot) as reason:
        yield Left(row.id, said(reason))


def _read(file: Path) -> Iterator[dict]:
    if not file.is_file():
        raise ValueError(f"plan: --published {file} is no file here")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            yield {"id": fields["id"], "kind": fields["kind"], "figures": dict(fields["figures"])} | fields
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"plan: {file} line {number}: no published figures ({type(error).__name__}: {error})") from error
