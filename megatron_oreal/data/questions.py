"""Questions in: JSONL files read strictly, balanced by difficulty."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """One line of a data file."""

    id: str
    question: str
    gold_answer: str
    pass_rate: float | None = None


def read_questions(path: str | Path) -> list[Question]:
    """Questions of a JSONL file with question, gold_answer and optionally pass_rate and id.

    Raises:
        ValueError: file, line and field of the first malformed line, or that there is no line or no file.
    """
    questions: dict[str, Question] = {}
    for number, row in read_rows(path):
        question = _question(row, number, path)
        if question.id in questions:
            raise ValueError(f"{path}:{number}: field 'id': {question.id!r} stands there twice")
        questions[question.id] = question
    return list(questions.values())


def read_rows(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(line number, JSON object) of every line that is not blank; errors as in read_questions."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    empty = True
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            empty = False
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a JSON object is wanted, not {type(row).__name__}")
            yield number, row
    if empty:
        raise ValueError(f"{path}: no lines")


def text_field(row: dict, name: str, number: int, path: str | Path) -> str:
    """A field that must be a non-blank string."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{path}:{number}: field {name!r} must be a non-empty string, not {value!r:.80}")
    return value


def _question(row: dict, number: int, path: str | Path) -> Question:
    rate = row.get("pass_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        raise ValueError(f"{path}:{number}: field 'pass_rate' must be a number from 0 to 1, not {rate!r:.80}")
    return Question(
        id=str(row.get("id", number)),
        question=text_field(row, "question", number, path),
        gold_answer=text_field(row, "gold_answer", number, path),
        pass_rate=rate,
    )


def balance(questions: Sequence[Question], bands: Sequence[tuple[float, int]]) -> list[Question]:
    """Repeat each question by its pass rate (spec, Data); no bands or no pass rate: once; beyond the last band: dropped."""

    def repeats(question: Question) -> int:
        if not bands or question.pass_rate is None:
            return 1
        return next((times for end, times in bands if question.pass_rate < end), 0)

    return [q for q in questions for _ in range(repeats(q))]
