"""Days of the week, months and dates: Thurs., May 5th, 12 September 2021."""

import re
from dataclasses import dataclass

from megatron_oreal.verify.rules.wording.vocabulary import plain

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_SHORT = {"sept": 9} | {name[:3]: number for number, name in enumerate(_MONTHS, start=1)}
_WEEKDAYS = {"tues": 2, "weds": 3, "thur": 4, "thurs": 4} | {name[:3]: number for number, name in enumerate(_DAYS, start=1)}
_NAMES_OF_MONTHS = {name: number for number, name in enumerate(_MONTHS, start=1)} | _SHORT
_NAMES_OF_DAYS = {name: number for number, name in enumerate(_DAYS, start=1)} | _WEEKDAYS
_ORDINAL = re.compile(r"(\d{1,2})\s*\^?\s*\{?\s*(?:st|nd|rd|th)\b\s*\}?")
_TOKEN = re.compile(r"[A-Za-z]+\.?|\d+")
_IDLE = frozenset(("on", "the", "of", "a", "in"))
_CHINESE = re.compile(r"(?:(\d{4})\s*年)?\s*(\d{1,2})\s*月\s*(\d{1,2})\s*[日号]")
_CHINESE_DAY = re.compile(r"(?:星期|周|礼拜)([一二三四五六日天])")
MAX_CHARS = 60


@dataclass(frozen=True)
class Date:
    weekday: int | None = None
    day: int | None = None
    month: int | None = None
    year: int | None = None

    def says(self, gold: "Date") -> bool | None:
        """Whether it says what the gold date says; None where it leaves out part of it and differs in nothing else."""
        pairs = [(getattr(self, name), getattr(gold, name)) for name in ("weekday", "day", "month", "year")]
        if any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs):
            return False
        return None if any(mine is None and theirs is not None for mine, theirs in pairs) else True


def date(text: str) -> Date | None:
    """The date, month or day of the week that a whole answer names, or None."""
    text = plain(text)
    if len(text) > MAX_CHARS:
        return None
    chinese, day = _CHINESE.fullmatch(text), _CHINESE_DAY.fullmatch(text)
    if chinese:
        year, month, of_month = (int(part) if part else None for part in chinese.groups())
        return Date(day=of_month, month=month, year=year)
    if day:
        return Date(weekday=min(7, "一二三四五六日天".index(day.group(1)) + 1))
    text = _ORDINAL.sub(r"\1", text)
    if _TOKEN.sub("", text).strip(" ,.\\"):
        return None
    return _of_tokens(_TOKEN.findall(text))


def _of_tokens(tokens: list[str]) -> Date | None:
    found: dict[str, int] = {}
    for token in tokens:
        word = token.rstrip(".").lower()
        if word in _IDLE:
            continue
        name, value = _part(word)
        if name is None or name in found:
            return None
        found[name] = value
    if not found or set(found) <= {"day", "year"}:
        return None
    return Date(**found) if "month" in found or set(found) == {"weekday"} else None


def _part(word: str) -> tuple:
    if word in _NAMES_OF_DAYS:
        return "weekday", _NAMES_OF_DAYS[word]
    if word in _NAMES_OF_MONTHS:
        return "month", _NAMES_OF_MONTHS[word]
    if word.isdigit() and len(word) == 4:
        return "year", int(word)
    return ("day", int(word)) if word.isdigit() and 1 <= int(word) <= 31 else (None, 0)
