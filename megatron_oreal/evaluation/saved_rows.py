"""Rows that are kept on disk as they come, so that work that was killed goes on where it was: evaluation, pass rates."""

import json
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, TypeVar

import msgspec


class HasKey(Protocol):
    """A row that is there once."""

    @property
    def key(self) -> object: ...


Row = TypeVar("Row", bound=HasKey)


class SavedRows(Generic[Row]):
    """A file: a line that says of what, then one line a row. `rows` is what stands in it, by key."""

    def __init__(self, path: Path, of: dict, kind: type[Row], name: str):
        """
        Args:
            of: all that the rows depend on.
            kind: a dataclass.
            name: of the configuration's key that leads to the file.

        Raises:
            ValueError: the file belongs to something else than `of`, or holds what is no row.
        """
        self.path, self._lock, self._name = path, Lock(), name
        self.rows: dict[object, Row] = {}
        whole = self._read(of, kind) if path.exists() else 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (lives as long as the work)
        self._file.truncate(whole)  # a line without end: it was killed there
        if whole == 0:
            self._file.write(json.dumps(of).encode() + b"\n")

    def add(self, row: Row, **more: object) -> bool:
        """Whether the row is new (it may come twice); `more` stands in the file with it, and is not kept here. From any thread."""
        with self._lock:
            if row.key in self.rows:
                return False
            self._file.write(json.dumps(asdict(row) | more, ensure_ascii=False).encode(errors="replace") + b"\n")
            self.rows[row.key] = row
            return True

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """It is not needed any more."""
        self.close()
        self.path.unlink()

    def _read(self, of: dict, kind: type[Row]) -> int:
        """Take up the whole lines. Returns their size in bytes."""
        size = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                size += len(line)
                try:
                    if number == 1:
                        self._compare(json.loads(line), of)
                        continue
                    row = msgspec.json.decode(line, type=kind)
                except (msgspec.MsgspecError, json.JSONDecodeError) as error:
                    raise ValueError(f"{self._name}: {self.path}:{number}: {error}; delete the file to start again") from error
                self.rows[row.key] = row
        return size

    def _compare(self, begun: dict, of: dict) -> None:
        names = [*of, *(name for name in begun if name not in of)]
        differ = [name for name in names if begun.get(name) != of.get(name)]
        if differ:
            was = "; ".join(f"{name} was {begun.get(name)!r}, is {of.get(name)!r}" for name in differ)
            advice = f"delete it to start again, or choose another {self._name}"
            raise ValueError(f"{self._name}: {self.path} is of another measurement ({was}); {advice}")
