"""Rows of Parquet and Arrow files, batch by batch."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow
from pyarrow import ipc, parquet

ROWS_AT_ONCE = 1_024
ARROW_FILE = b"ARROW1"
"""How a file with an index begins; `datasets` writes streams, which have none."""


def table_rows(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, dict]]:
    """(row from 1, its fields), of the columns that are wanted and there; of all of them where `columns` is None or none is there.

    Raises:
        ValueError: the file cannot be read; row and field that cannot; or there are no rows.
    """
    done = 0
    for batch in _batches(path, columns):
        yield from enumerate(_rows(batch, path, done), done + 1)
        done += batch.num_rows
    if not done:
        raise ValueError(f"{path}: no rows")


def _batches(path: Path, columns: Collection[str] | None) -> Iterator[pyarrow.RecordBatch]:
    try:
        if path.suffix == ".parquet":
            with parquet.ParquetFile(path) as file:
                yield from file.iter_batches(ROWS_AT_ONCE, columns=_wanted(file.schema_arrow, columns))
            return
        with pyarrow.memory_map(str(path)) as file:
            indexed = file.read(len(ARROW_FILE)) == ARROW_FILE
            file.seek(0)
            batches = _of_file(file) if indexed else ipc.open_stream(file)
            for batch in batches:
                yield batch.select(_wanted(batch.schema, columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _of_file(file: pyarrow.MemoryMappedFile) -> Iterator[pyarrow.RecordBatch]:
    reader = ipc.open_file(file)
    return (reader.get_batch(i) for i in range(reader.num_record_batches))


def _wanted(schema: pyarrow.Schema, columns: Collection[str] | None) -> list[str]:
    return [name for name in schema.names if columns and name in columns] or schema.names


def _rows(batch: pyarrow.RecordBatch, path: Path, before: int) -> list[dict]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        return [_row(batch, path, number, before) for number in range(batch.num_rows)]  # slowly, to name the row and the field


def _row(batch: pyarrow.RecordBatch, path: Path, number: int, before: int) -> dict:
    fields = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            fields[name] = column[number].as_py()
        except (ValueError, OverflowError) as error:
            why = f"byte 0x{error.object[error.start]:02X} is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise ValueError(f"{path}:{before + number + 1}: field {name!r}: {why}") from error
    return fields
