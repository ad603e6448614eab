"""Questions in: sets of them in any usual form, read strictly, balanced by difficulty."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.data.fields import UNANSWERED, Fields, gold_answer_of, label_of, pass_rate_of, question_of
from megatron_oreal.data.files import files_of, fingerprint
from megatron_oreal.data.rows import Row, read_rows


@dataclass(frozen=True)
class Question:
    """What is asked, and what is right."""

    id: str
    question: str
    gold_answer: str
    pass_rate: float | None = None
    origin: str = ""  # the set it is from, where there are several


class Remarks:
    """What was read otherwise than it stands there: counted, to be said."""

    def __init__(self):
        self._found: dict[str, tuple[int, str]] = {}  # what -> how often, and where first

    def add(self, what: str, place: str) -> None:
        count, first = self._found.get(what, (0, place))
        self._found[what] = count + 1, first

    def lines(self) -> list[str]:
        """One for each kind."""
        return [f"{count:,} {'row' if count == 1 else 'rows'} with {what} (first {place})" for what, (count, place) in self._found.items()]


class QuestionSet:
    """One set: a file, or a split of a folder."""

    def __init__(self, data: str | Path, split: str | None = None, fields: Fields | None = None, default: str = "train"):
        """
        Args:
            split, default: as in files.files_of.
            fields: None: the known ones.

        Raises:
            ValueError: as files.files_of.
        """
        self._fields = fields or Fields.named({})
        self._files = files_of(Path(data), split, default)

    def read(self, remarks: Remarks, whole: bool = False) -> Iterator[tuple[Row, Question | None]]:
        """Every row in order, with its question; None where the set says that there is no answer (which is among the remarks).

        Args:
            whole: rows with all their fields, not those alone that a question is made of.

        Raises:
            ValueError: file, line (or row) and field of the first that cannot be read, or an id that stands there twice.
        """
        ids: set[str] = set()
        for path in self._files:
            for row in read_rows(path, None if whole else self._fields.columns):
                question = self._question(row, remarks)
                if question and question.id in ids:
                    raise ValueError(f"{row.place}: field 'id': {question.id!r} stands there twice")
                if question:
                    ids.add(question.id)
                yield row, question

    def fingerprint(self) -> str:
        """Tells its contents apart from others."""
        return fingerprint(self._files)

    def _question(self, row: Row, remarks: Remarks) -> Question | None:
        text, found = question_of(row, self._fields)
        gold = gold_answer_of(row, self._fields)
        for remark in found if gold else [UNANSWERED]:
            remarks.add(remark, row.place)
        unnamed = str(row.number) if len(self._files) == 1 else f"{row.path.name.partition('.')[0]}:{row.number}"
        return Question(label_of(row, self._fields, "id") or unnamed, text, gold, pass_rate_of(row, self._fields)) if gold else None


def read_questions(data: str | Path, fields: Mapping[str, str | None] | None = None) -> list[Question]:
    """All questions of a set. Raises ValueError as QuestionSet does."""
    return [question for _, question in QuestionSet(data, fields=Fields.named(fields or {})).read(Remarks()) if question]


def balance(questions: Sequence[Question], bands: Sequence[tuple[float, int]]) -> list[Question]:
    """Repeat each question by its pass rate (spec, Data); no bands or no pass rate: once; beyond the last band: dropped."""

    def repeats(question: Question) -> int:
        if not bands or question.pass_rate is None:
            return 1
        return next((times for end, times in bands if question.pass_rate < end), 0)

    return [q for q in questions for _ in range(repeats(q))]
