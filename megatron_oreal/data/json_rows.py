"""JSON read strictly, a line an object or one array of them: what Python's reader lets pass is refused by file, line and field."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

MAX_DIGITS = 1_000
"""Of a number."""
MAX_NESTING = 100
BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
UTF8_BOM = b"\xef\xbb\xbf"
WHOLE = 0
"""In the place of a line's number."""
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_RAW_BYTES = range(0xDC80, 0xDD00)
"""Surrogates in the place of bytes that are no UTF-8 (PEP 383)."""
_TOKEN = re.compile(r'"((?:[^"\\]++|\\.)*+)"|[\[\]{}]', re.DOTALL)


def json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(its line, object), for `.json` and `.jsonl`, also in gzip. A `.json` file may be one array: (place in it from 1, object).

    Raises:
        ValueError: file, line and field of the first that is no JSON in UTF-8, or holds NaN, a number that no float holds or of more than
            MAX_DIGITS digits, half a surrogate pair, a field twice, or lists and objects nested deeper than MAX_NESTING.
    """
    objects, empty = _Objects(path), True
    for number, text in _texts(path):
        for numbered in objects.array(text) if number == WHOLE else [(number, objects.line(text, number))]:
            empty = False
            yield numbered
    if empty:
        raise ValueError(f"{path}: no lines")


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of those that are not blank; of a file that is an array, (WHOLE, all of it)."""
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if number == 1 and line[:2] in BOMS:
            raise ValueError(f"{path}: {BOMS[line[:2]]}, not UTF-8 (iconv -t UTF-8 converts it)")
        text = _decoded(line.removeprefix(UTF8_BOM) if number == 1 else line).strip(" \t\r\n")
        if number == 1 and text.startswith("[") and path.name.endswith((".json", ".json.gz")):
            yield WHOLE, f"{text}\n{_decoded(b''.join(lines))}"
        elif text:
            yield number, text


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode(errors="surrogateescape")  # so that the field can be named in which they are


class _Refused(str):
    """Why a value is refused; it stands in the value's place until the field is known."""


class _Objects:
    """Objects out of the text of one file."""

    def __init__(self, path: Path):
        self._path = path
        self._refused = False
        self._decoder = json.JSONDecoder(
            parse_int=self._integer, parse_float=self._real, parse_constant=self._constant, object_pairs_hook=self._object
        )

    def line(self, text: str, number: int) -> dict:
        """The object that a line is."""
        found, end = self._at(text, 0, number)
        if end < len(text):
            raise ValueError(f"{self._path}:{number}: not JSON (Extra data at column {end + 1})")
        return found

    def array(self, text: str) -> Iterator[tuple[int, dict]]:
        """(place in it from 1, object) of those in an array that is a whole file."""
        place, number = text.index("[") + 1, 0
        while text[(place := _SPACE.match(text, place).end()) : place + 1] != "]":
            number += 1
            found, place = self._at(text, place, number)
            yield number, found
            place = _SPACE.match(text, place).end()
            if text[place : place + 1] == ",":
                place += 1
            elif text[place : place + 1] != "]":
                raise ValueError(f"{self._path}:{number}: not JSON (no comma, and no ] after this object)")
        if text[place + 1 :].strip():
            raise ValueError(f"{self._path}:{number}: not JSON (more follows after the array)")

    def _at(self, text: str, start: int, number: int) -> tuple[dict, int]:
        """The object that begins there, and where it ends."""
        self._refused = False
        try:
            found, end = self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            line = f"line {error.lineno}, " if error.lineno > 1 else ""  # of an array
            raise ValueError(f"{self._path}:{number}: not JSON ({error.msg} at {line}column {error.colno})") from error
        except RecursionError as error:
            raise ValueError(f"{self._path}:{number}: {_too_deep(text, start)}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self._path}:{number}: a JSON object is wanted, not {type(found).__name__}")
        if text.count("[", start, end) + text.count('{"', start, end) > MAX_NESTING and (deep := _too_deep(text, start)):
            raise ValueError(f"{self._path}:{number}: {deep}")
        if self._refused or _may_hold_surrogates(text[start:end]):
            self._name_what_is_refused(found, number)
        return found, end

    def _name_what_is_refused(self, found: dict, number: int) -> None:
        for field, value in _leaves(found):
            why = value if isinstance(value, _Refused) else _no_text(value)
            if why:
                raise ValueError(f"{self._path}:{number}: field '{field}': {why}".encode(errors="backslashreplace").decode())

    def _refuse(self, why: str) -> _Refused:
        self._refused = True
        return _Refused(why)

    def _integer(self, text: str) -> int | _Refused:
        return int(text) if len(text) <= MAX_DIGITS else self._refuse(f"a number of {len(text):,} digits")

    def _real(self, text: str) -> float | _Refused:
        if len(text) > MAX_DIGITS:
            return self._refuse(f"a number of {len(text):,} digits")
        return value if isfinite(value := float(text)) else self._refuse(f"{text} is larger than any float")

    def _constant(self, text: str) -> _Refused:
        return self._refuse(f"{text} is no number that JSON has")

    def _object(self, pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            found[twice] = self._refuse("stands there twice")
        return found


def _may_hold_surrogates(text: str) -> bool:
    """Cheaper than a look at every value."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\\ud" in text or "\\uD" in text


def _leaves(row: dict) -> Iterator[tuple[str, object]]:
    """(field, or field.in.it, and value), all the way down; names as well."""
    left: list[tuple[str, object]] = [("", row)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            inner = [(f"{path}.{name}" if path else name, one) for name, one in value.items()]
            yield from ((name, name) for name, _ in inner)
            left += reversed(inner)
        elif isinstance(value, list):
            left += [(path, one) for one in reversed(value)]
        else:
            yield path, value


def _no_text(value: object) -> str:
    found = _SURROGATE.search(value) if isinstance(value, str) else None
    if not found:
        return ""
    code = ord(found[0])
    return f"byte 0x{code - 0xDC00:02X} is not UTF-8" if code in _RAW_BYTES else f"\\u{code:04x} is half of a surrogate pair"


def _too_deep(text: str, start: int) -> str:
    """The field that is nested deeper than MAX_NESTING; empty where none is."""
    depth, field = 0, ""
    for token in _TOKEN.finditer(text, start):
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        elif depth == 1:
            field = token[1]
        if depth > MAX_NESTING:
            return f"field {field!r}: lists and objects nested deeper than {MAX_NESTING}"
        if depth == 0:
            return ""
    return ""
