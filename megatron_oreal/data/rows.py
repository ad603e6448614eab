"""Rows of a JSON, Parquet or Arrow file, each with its place; one after the other: no file is held whole beside its questions."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.data.files import JSON
from megatron_oreal.data.json_rows import json_rows


@dataclass(frozen=True)
class Row:
    """What a set says of one question."""

    path: Path
    number: int  # its line, or in a table or an array its place, from 1
    fields: dict[str, object]

    @property
    def place(self) -> str:
        return f"{self.path}:{self.number}"


def read_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """All rows that are not blank, in order.

    Args:
        columns: those that are wanted of a table, as far as it has them; None: all. Lines come with all that they have.

    Raises:
        ValueError: file, line (row) and, where it is one, field of the first that cannot be read; or that there is nothing in the file.
    """
    if path.name.endswith(JSON):
        numbered = json_rows(path)
    else:
        from megatron_oreal.data.table_rows import table_rows  # imported late, as is pyarrow: most sets are no tables

        numbered = table_rows(path, columns)
    for number, fields in numbered:
        yield Row(path, number, fields)
