"""What `--help` and `--keys` say of a command's keys, for a terminal."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence

from omegaconf import MISSING

from megatron_oreal.keys.compose import WHOLE, Taken, compose, taken
from megatron_oreal.keys.files import choices, sets_keys, what_it_is
from megatron_oreal.keys.meanings import Key, keys_with_meanings

LEFT = 34  # columns for what is typed, where that fits
WIDEST = 140


def main_keys(name: str, overrides: Sequence[str], known: Sequence[str], main: Iterable[str]) -> str:
    """The keys named, in that order, with the values that the overrides leave them; and what there is to choose."""
    composed, made_of = compose(name, overrides, known), taken(name, overrides)
    keys = {key.name: key for key in keys_with_meanings(composed, made_of.files)}
    said = f"main keys:\n{_table([_row(keys[one]) for one in main])}"
    there = _choosable(made_of, known)
    return f"{said}\n\nfiles of conf/ to choose, the one that is taken first:\n{_table(there)}" if there else said


def all_keys(name: str, overrides: Sequence[str], known: Sequence[str]) -> str:
    """Every key, in the order of conf/."""
    return _table([_row(key) for key in keys_with_meanings(compose(name, overrides, known), taken(name, overrides).files)])


def _row(key: Key) -> tuple[str, str]:
    must = "must be given: " if key.value == MISSING else ""
    return key.written, f"{must}{key.meaning}"


def _choosable(made_of: Taken, known: Sequence[str]) -> list[tuple[str, str]]:
    rows = []
    for group, one_taken in made_of.choices.items():
        if group in WHOLE:
            rows += [(f"{group}={one}", what_it_is(group, one)) for one in choices(group) if sets_keys(group, one) <= set(known)]
            continue
        others = [one for one in choices(group) if one != one_taken and sets_keys(group, one) == sets_keys(group, one_taken)]
        if others:
            rows.append((f"{group}=", " ".join([one_taken, *others])))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns; the right one is wrapped."""
    width = max(min(shutil.get_terminal_size().columns, WIDEST) - LEFT - 4, 30)
    lines = []
    for left, right in rows:
        first, *rest = textwrap.wrap(right, width) or [""]
        beside = f"{left:{LEFT}}  {first}" if len(left) <= LEFT else f"{left}\n{'':{LEFT + 4}}{first}"
        lines += [f"  {beside}".rstrip(), *(f"{'':{LEFT + 4}}{text}" for text in rest)]
    return "\n".join(lines)
