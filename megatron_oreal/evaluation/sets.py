"""Question sets as they are found: JSON lines, Parquet and Arrow files, and folders of them, under the names that sets in use have."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.data.questions import Question, read_rows
from megatron_oreal.evaluation.config import EvalSet
from megatron_oreal.verify.extraction.boxes import outer_boxes

NAMES = {
    "question": ("question", "problem", "Problem", "Question"),
    "gold_answer": ("gold_answer", "final_answer", "answer", "Answer", "solution", "Solution"),
    "id": ("id", "ID", "unique_id"),
    "subject": ("subfield", "subject", "Subject", "type", "category", "kind"),
    "level": ("level", "Level", "difficulty"),
}
"""Field -> what it is called, the first that a row has: here, in MATH, MATH-500, AIME, AMC, OlympiadBench, GSM8K and their copies."""
SOLUTIONS = ("solution", "Solution")
"""Whole solutions: gold where they end in a box, and there is no other."""
GSM8K_MARK = "####"
READERS = (".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Problem:
    """A question with what tables are made by."""

    question: Question
    subject: str | None = None
    level: str | None = None


@dataclass(frozen=True)
class ProblemSet:
    """One set and how it is asked."""

    name: str
    problems: list[Problem]
    asked: EvalSet  # with everything filled in


def read_sets(sets: dict[str, EvalSet]) -> list[ProblemSet]:
    """All sets, in the order given. Raises ValueError as read_problems does."""
    return [ProblemSet(name, read_problems(one.data, one.split), one) for name, one in sets.items()]


def read_problems(data: str | Path, split: str | None = None) -> list[Problem]:
    """The problems of a file or folder, in order.

    Raises:
        ValueError: file, line (row) and field of the first that cannot be read; no such file, no questions, or several splits.
    """
    problems: dict[str, Problem] = {}
    for path in files_of(Path(data), split):
        for number, row in _rows(path):
            problem = _problem(row, path, number)
            if problem.question.id in problems:
                raise ValueError(f"{path}:{number}: field 'id': {problem.question.id!r} stands there twice")
            problems[problem.question.id] = problem
    return list(problems.values())


def files_of(data: Path, split: str | None) -> list[Path]:
    """The files that hold a split: `data` itself, or those in the folder, as the hub and `save_to_disk` name them.

    `test-00000-of-00001.parquet`, `test.jsonl` and `test/data-00000-of-00001.arrow` are of the split "test".

    Raises:
        ValueError: nothing to read, no such split, or several to choose from.
    """
    if data.is_file():
        if split:
            raise ValueError(f"{data}: split={split!r} is of a folder, this is a file")
        if data.suffix in READERS[1:] or data.suffix.startswith(".json"):
            return [data]
        raise ValueError(f"{data}: {', '.join(READERS)} files are read, and folders of them")
    if not data.is_dir():
        raise ValueError(f"{data}: no such file or folder (data sets are not downloaded here: `hf download --repo-type dataset` does that)")
    inside = [p for p in sorted(data.rglob("*")) if p.suffix in READERS and not _is_hidden(p.relative_to(data))]
    splits: dict[str, list[Path]] = {}
    for path in inside:
        splits.setdefault(_split_of(path), []).append(path)
    return _chosen(data, splits, split)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name.startswith("cache-")  # what `datasets` leaves beside a saved set


def _split_of(path: Path) -> str:
    name = path.stem.split("-")[0]
    return path.parent.name if name == "data" else name


def _chosen(data: Path, splits: dict[str, list[Path]], split: str | None) -> list[Path]:
    if not splits:
        raise ValueError(f"{data}: no {', '.join(READERS)} file in it")
    wanted = split or (next(iter(splits)) if len(splits) == 1 else "test")
    if wanted not in splits:
        raise ValueError(f"{data}: holds {', '.join(sorted(splits))}; name one as `split` of the set")
    folders = {path.parent for path in splits[wanted]}
    if len(folders) > 1:
        names = ", ".join(sorted(str(f.relative_to(data)) for f in folders))
        raise ValueError(f"{data}: split {wanted!r} is in several folders ({names}); name one of them as the set's data")
    kinds = {path.suffix for path in splits[wanted]}
    if len(kinds) > 1:
        raise ValueError(f"{data}: split {wanted!r} is there as {' and '.join(sorted(kinds))}; name one file as the set's data")
    return splits[wanted]


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """(line, or row from 1, and its fields)."""
    if path.suffix not in (".parquet", ".arrow"):
        yield from read_rows(path)
        return
    rows = _table(path).to_pylist()
    if not rows:
        raise ValueError(f"{path}: no rows")
    yield from enumerate(rows, 1)


def _table(path: Path):
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading it needs pyarrow (pip install pyarrow)") from error
    try:
        if path.suffix == ".parquet":
            return parquet.ParquetFile(path).read()
        with open(path, "rb") as file:
            return ipc.open_stream(file).read_all()  # what `datasets` writes
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error


def _problem(row: dict, path: Path, number: int) -> Problem:
    where = f"{path}:{number}"
    name, value = _found(row, "question", where)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: field {name!r} must be a non-empty string, not {value!r:.80}")
    gold = _gold(row, where)
    told = {field: _label(row, field, where) for field in ("id", "subject", "level")}
    unnamed = str(number) if path.suffix == ".jsonl" else f"{path.stem}:{number}"
    level = told["level"].removeprefix("Level ") if told["level"] else None
    return Problem(Question(told["id"] or unnamed, value, gold), told["subject"], level)


def _found(row: dict, field: str, where: str) -> tuple[str, object]:
    """Under which of its names a row has a field that it must have, and what stands there."""
    for name in NAMES[field]:
        if row.get(name) is not None:
            return name, row[name]
    raise ValueError(f"{where}: field {field!r} is missing (looked for {', '.join(NAMES[field])})")


def _gold(row: dict, where: str) -> str:
    name, value = _found(row, "gold_answer", where)
    text = _text(value)
    if text and name in SOLUTIONS:
        text = (outer_boxes(text) or [""])[-1]
        if not text:
            raise ValueError(f"{where}: field {name!r} is the only answer there is, and has no \\boxed")
    text = text.rpartition(GSM8K_MARK)[2].strip()
    if not text:
        raise ValueError(f"{where}: field {name!r} must be an answer, not {value!r:.80}")
    return text


def _text(value: object) -> str:
    """An answer as text: a number, a string, or a list of them (OlympiadBench); empty where it is something else."""
    if isinstance(value, list):
        parts = [_text(part) for part in value]
        return ", ".join(parts) if all(parts) else ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # the AMC's 142.0
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def _label(row: dict, field: str, where: str) -> str | None:
    for name in NAMES[field]:
        value = row.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"{where}: field {name!r} must be a string or a number, not {value!r:.80}")
        return str(value)
    return None
