"""Composed values as the dataclasses that say their types."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import get_args, get_origin, get_type_hints

import msgspec
from omegaconf import MISSING

from megatron_oreal.checked import FilePath
from megatron_oreal.keys.nearest import hint
from megatron_oreal.keys.quoting import pasted, quoted

LONGEST = 1e9
"""Seconds; keys that end with _s are durations."""
LARGEST = 1 << 62


def keys_of(schema: type, path: str = "") -> Iterator[str]:
    """All dotted keys of a dataclass, those of its sections after the section's own."""
    for name, kind in get_type_hints(schema).items():
        yield f"{path}{name}"
        if (section := _section_of(kind)) and get_origin(kind) is not dict:
            yield from keys_of(section, f"{path}{name}.")


class Reading:
    """Makes a dataclass of composed values, and gathers all that is wrong with them, a line each."""

    def __init__(self, schema: type, groups: Callable[[], Iterable[str]], overrides: Sequence[str]):
        """`groups`: those that a misspelt key may have meant as well; `overrides`: as they were typed."""
        self._schema, self._groups = schema, groups
        self._typed = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
        self.wrong: list[str] = []

    def read(self, values: dict):
        """The schema's dataclass; None where `wrong` is not empty afterwards."""
        return self._section(self._schema, values, "")

    def _section(self, schema: type, values: dict, path: str):
        types, before, section = get_type_hints(schema, include_extras=True), len(self.wrong), None
        given = {name: value for name, value in values.items() if value != MISSING}
        for field in fields(schema):
            if field.name not in given and field.default is NO_DEFAULT:
                self.wrong.append(f"{path}{field.name} is missing")
        typed = {name: self._value(types[name], value, f"{path}{name}") for name, value in given.items() if name in types}
        if len(self.wrong) == before:
            try:
                section = schema(**typed)
            except ValueError as error:
                self.wrong += [f"{path}{line}" for line in str(error).splitlines()]
        for name in [name for name in values if name not in types]:
            self._refuse(f"{path}{name}", f"{path}{name}", values[name], types)
        return section

    def _refuse(self, key: str, stranger: str, value: object, beside: Iterable[str]) -> None:
        """A key that there is not; of a section that there is not (`stranger`) each key that was given. `beside`: what there is there."""
        if isinstance(value, dict) and value:
            for name, one in value.items():
                self._refuse(f"{key}.{name}", stranger, one, beside)
        else:
            known = [*self._groups(), *keys_of(self._schema)]
            instead = hint(key, known) or hint(stranger, known) or f"; known: {', '.join(sorted(beside))}"
            self.wrong.append(f"unknown key {key}{instead}")

    def _value(self, kind: object, value: object, path: str):
        if isinstance(value, dict) and get_origin(kind) is dict:
            return {key: self._value(get_args(kind)[1], one, f"{path}.{key}") for key, one in value.items()}
        if isinstance(value, dict) and (schema := _section_of(kind)):
            return self._section(schema, value, f"{path}.")
        try:
            typed = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.wrong.append(f"{path}={value!r}: {error}{self._as_meant(kind, value, path)}")
            return None
        if beyond := _beyond(typed, path.endswith("_s")):
            self.wrong.append(f"{path}={value!r}: {beyond}")
            return None
        return os.path.expanduser(typed) if isinstance(typed, str) and FilePath in (kind, *get_args(kind)) else typed

    def _as_meant(self, kind: object, value: object, path: str) -> str:
        """How to give a text that Hydra takes for a number, a list or a word of its own, or a list of one element."""
        typed, kinds = self._typed.get(path), (kind, *get_args(kind))
        if typed and get_origin(kind) is list and isinstance(value, str | int | float):
            return f"; as a list: {pasted(f'{path}=[{typed}]')}"
        return f"; as text: {pasted(f'{path}={quoted(typed)}')}" if typed and (str in kinds or FilePath in kinds) else ""


def _beyond(value: object, seconds: bool) -> str:
    """Why no clock, tensor or process takes a number, or one of a list; empty where they do. `seconds`: it is a duration."""
    if isinstance(value, list | tuple):
        return next((why for one in value if (why := _beyond(one, seconds))), "")
    if not isinstance(value, int | float):
        return ""
    if not isfinite(value):
        return "it must be finite"
    return f"it must be below {LONGEST:.0e} seconds" if seconds and value >= LONGEST else "it is too large" if abs(value) >= LARGEST else ""


def _section_of(kind: object) -> type | None:
    return next((one for one in (kind, *get_args(kind)) if is_dataclass(one)), None)
