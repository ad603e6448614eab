"""What a question is made of, under the names that sets in use have for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from reprlib import Repr

from megatron_oreal.data.rows import Row
from megatron_oreal.verify.extraction.boxes import last_box

KNOWN = {
    "question": ("question", "problem", "Problem", "Question", "prompt"),
    "gold_answer": ("gold_answer", "final_answer", "reward_model.ground_truth", "answer", "Answer", "label"),
    "solution": ("solution", "Solution"),
    "id": ("id", "ID", "unique_id"),
    "pass_rate": ("pass_rate",),
    "response": ("response",),
}
"""Field -> what it is called, the first that a row has: here, in OREAL-RL-Prompts, DAPO-Math-17k, verl's and slime's files, DeepScaleR,
OpenR1-Math, Big-Math, NuminaMath, MATH, MATH-500, AIME, AMC, OlympiadBench, GSM8K and their copies. Big-Math's llama8b_solve_rate is no
pass_rate: it is another model's."""
MARKS_OF_NUMINA = ("question_type", "source")
"""Fields of NuminaMath and of what was made from it (OpenR1-Math): sets with questions that have no answer."""
NO_ANSWER = ("", "proof", "notfound")
"""What stands there in the place of one."""
LISTED = "final_answer"
"""OlympiadBench's, which is a list of answers, all of them wanted."""
GSM8K_MARK = "####"
_GSM8K_SUM = re.compile(r"<<[^<>]*=[^<>]*>>")
_CHAT_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")
MAX_ANSWER = 12_000
"""Characters: no answer as long as that is ever found right (verify.rules.equivalence)."""
LONGEST_WHOLE = 1e15
"""Up to there a float that is whole is written as a whole number: the AMC's 142.0."""

ELSEWHERE = (
    (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer (without "
        "quotes) where $Answer is the answer to the problem.\n\n",
        '\n\nRemember to put your answer on its own line after "Answer:".',
    ),
    ("", ' Let\'s think step by step and output the final answer after "####".'),
)
"""What DAPO-Math-17k and verl's GSM8K write around a question: to answer where nobody looks here, for an answer stands in a box."""

SYSTEM = "a system message of its own, left out: the run has its own"
INSTRUCTED = "an instruction around the question to answer elsewhere than in a box, taken off"
UNANSWERED = "no answer (a proof, or none was found), left out"

_shown = Repr()
_shown.maxstring = _shown.maxother = 80
shown = _shown.repr
"""A value in an error: short, however long or deep it is."""


@dataclass(frozen=True)
class Fields:
    """Where a row has what a question is made of."""

    names: Mapping[str, tuple[str, ...]]  # field of ours -> what it may be called; empty: there is none
    own: frozenset[str] = frozenset()  # fields whose name was given

    @classmethod
    def named(cls, given: Mapping[str, str | None], more: Mapping[str, tuple[str, ...]] | None = None) -> "Fields":
        """`given`: one name each; `more`: fields beside those of a question, with their names."""
        own = {field: (name,) if name is not None else () for field, name in given.items()}
        return cls(KNOWN | (more or {}) | own, frozenset(given))

    @property
    def columns(self) -> frozenset[str]:
        """All that may be looked at."""
        every = [name for names in self.names.values() for name in names]
        return frozenset((*every, *(name.partition(".")[0] for name in every), *MARKS_OF_NUMINA))

    def find(self, row: Row, field: str) -> tuple[str, object] | None:
        """Under which name a row has the field, and what stands there; None where it has none, or null.

        Raises:
            ValueError: the name was given, and there is no such field.
        """
        for name in self.names[field]:
            there, value = _at(row.fields, name)
            if value is not None:
                return name, value
            if field in self.own and not there:
                raise ValueError(f"{row.place}: field {name!r} (fields.{field}) is missing")
        return None

    def need(self, row: Row, *fields: str) -> tuple[str, object]:
        """The first of the fields that the row has. Raises ValueError where it has none."""
        for field in fields:
            if found := self.find(row, field):
                return found
        looked_for = ", ".join(name for field in fields for name in self.names[field])
        raise ValueError(f"{row.place}: field {fields[0]!r} is missing (looked for {looked_for}; `fields.{fields[0]}` names another)")


def _at(fields: object, name: str) -> tuple[bool, object]:
    """Whether a field, or one in a field (`a.b`), is there, and what stands in it."""
    if not isinstance(fields, Mapping):
        return False, None
    outer, dot, inner = name.partition(".")
    if name in fields or not dot:
        return name in fields, fields.get(name)
    return _at(fields.get(outer), inner)


def text_of(row: Row, name: str, value: object) -> str:
    """A value that must be a text that is not blank. Raises ValueError where it is none."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{row.place}: field {name!r} must be a non-empty string, not {shown(value)}")
    return value


def question_of(row: Row, fields: Fields) -> tuple[str, list[str]]:
    """The question alone, and what was left out around it (SYSTEM, INSTRUCTED): of a chat, its one user message."""
    name, value = fields.need(row, "question")
    remarks: list[str] = []
    if isinstance(value, list):
        value, roles = _user_message(row, name, value)
        remarks += [SYSTEM] if "system" in roles else []
    text = text_of(row, name, value)
    if _CHAT_AS_TEXT.match(text):
        raise ValueError(f"{row.place}: field {name!r} is a chat written as a text, not a list of messages: {shown(text)}")
    for before, after in ELSEWHERE:
        bare = text.removeprefix(before).removesuffix(after).strip()
        if text.startswith(before) and text.endswith(after) and bare:
            return bare, [*remarks, INSTRUCTED]
    return text, remarks


def _user_message(row: Row, name: str, chat: list) -> tuple[object, list[object]]:
    roles = [message.get("role") if isinstance(message, Mapping) else message for message in chat]
    if roles[-1:] != ["user"] or roles[:-1] not in ([], ["system"]):
        raise ValueError(
            f"{row.place}: field {name!r} must be one user message, with a system message before it or alone, not {shown(roles)}"
        )
    return chat[-1].get("content"), roles


def gold_answer_of(row: Row, fields: Fields) -> str | None:
    """The answer, taken out of the solution where there is no other; None where a set that has such questions says that there is none.

    Raises:
        ValueError: file, line and field of what is no answer, or has none.
    """
    wanted = [field for field in ("gold_answer", "solution") if field in fields.own and fields.names[field]][:1]
    name, value = fields.need(row, *(wanted or ("gold_answer", "solution")))
    in_box = name in fields.names["solution"] and name not in fields.names["gold_answer"]
    text = answer_text(value, listed=name == LISTED)
    if in_box and text:
        text = (last_box(text) or "").strip()
    if text is not None and _has_none(row, text, in_box):
        return None
    if in_box and not text and isinstance(value, str):
        raise ValueError(f"{row.place}: field {name!r} is the only answer there is, and has no \\boxed with something in it")
    return _final(row, name, value, text)


def _has_none(row: Row, text: str, in_box: bool) -> bool:
    typed, from_source = (mark in row.fields for mark in MARKS_OF_NUMINA)
    return text.casefold() in NO_ANSWER and (typed or (in_box and from_source))


def _final(row: Row, name: str, value: object, text: str | None) -> str:
    """What stands after GSM8K's mark, where there is one."""
    final = (text or "").rpartition(GSM8K_MARK)[2].strip()
    if not final or final.casefold() == "nan":
        raise ValueError(f"{row.place}: field {name!r} must be an answer, not {shown(value)}")
    if GSM8K_MARK not in text and _GSM8K_SUM.search(text):
        raise ValueError(f"{row.place}: field {name!r} is a solution of GSM8K's without its {GSM8K_MARK}: {shown(value)}")
    if len(final) > MAX_ANSWER:
        raise ValueError(f"{row.place}: field {name!r}: an answer of {len(final):,} characters, which nothing ever equals")
    return final


def answer_text(value: object, listed: bool = False) -> str | None:
    """An answer as text: a string or a finite number, or where they may be listed several of them; None where it is something else."""
    if listed and isinstance(value, list):
        parts = [answer_text(part) for part in value]
        return ", ".join(parts) if all(parts) else None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or (not isinstance(value, int) and not isfinite(value)):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < LONGEST_WHOLE else str(value)


def label_of(row: Row, fields: Fields, field: str) -> str | None:
    """A short text or a number that a row may have."""
    name, value = fields.find(row, field) or ("", None)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{row.place}: field {name!r} must be a string or a number, not {shown(value)}")
    return str(value)


def pass_rate_of(row: Row, fields: Fields) -> float | None:
    name, rate = fields.find(row, "pass_rate") or ("", None)
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1):
        raise ValueError(f"{row.place}: field {name!r} must be a number from 0 to 1, not {shown(rate)}")
    return rate
