"""Times of day: 3:30 p.m., 15:30, 5 o'clock, noon, half past three."""

import re
from dataclasses import dataclass

from megatron_oreal.verify.rules.wording.vocabulary import plain

_HALF_DAY = r"(?:\s*(?P<half>[aApP])\.?\s?[mM]\b\.?)?"
_PART = r"(?:\s*(?:in the |at )?(?P<part>morning|afternoon|evening|night|noon|midnight))?"
_HOURS = {
    word: value
    for value, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=1
    )
}
_DIGITAL = re.compile(
    rf"(?P<hours>\d{{1,2}})(?:\s*(?:[:h]|\.(?=\d\d\s*[aApP]\.?\s?[mM])|\{{:\}})\s*(?P<minutes>[0-5]\d)(?:\s*h)?)?(?P<clock>\s*o\s?'?\s?clock)?{_HALF_DAY}{_PART}",
    re.IGNORECASE,
)
_SPOKEN = re.compile(
    rf"(?:(?P<fraction>half|quarter|a quarter)\s+(?P<way>past|after|to|before)\s+)?(?P<word>{'|'.join(_HOURS)})"
    rf"(?P<clock>\s*o\s?'?\s?clock)?{_HALF_DAY}{_PART}",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"(上午|早上|凌晨|下午|晚上|中午)?\s*(\d{1,2})\s*(?:[点时:]\s*)(半|\d{1,2})?\s*分?")
_LATE = ("afternoon", "evening", "night", "noon", "下午", "晚上", "中午")
_NAMED = {"noon": (12, "p"), "midday": (12, "p"), "midnight": (12, "a")}


@dataclass(frozen=True)
class Time:
    minutes: int  # since midnight, or since noon where the half of the day is not said
    half_known: bool
    written_out: bool  # by more than two numbers with a colon, which may be a ratio
    of_24: bool = False  # with an hour beyond twelve

    def same(self, other: "Time") -> bool | None:
        """3:30 beside 3:30 p.m.: the half of the day may be left out, but not beside 15:30, where it is not known."""
        if self.half_known == other.half_known:
            return self.minutes == other.minutes
        alike = self.minutes % 720 == other.minutes % 720
        midnight = 0 in (self.minutes, other.minutes)
        return None if alike and (self.of_24 or other.of_24 or midnight) else alike


def time_of_day(text: str) -> Time | None:
    """What a whole answer names as a time of day, or None."""
    text = re.sub(r"\\!|\\ |\{\}", "", plain(text).replace("{:}", ":")).strip(" .")
    if text.lower() in _NAMED:
        return _time(*_NAMED[text.lower()][:1], 0, _NAMED[text.lower()][1], True)
    match = _DIGITAL.fullmatch(text)
    if match:
        return _digital(match)
    match = _SPOKEN.fullmatch(text)
    if match and (match["fraction"] or match["clock"] or match["half"] or match["part"]):
        return _spoken(match)
    match = _CHINESE.fullmatch(text)
    return _chinese(match) if match and not text.isascii() else None


def _digital(match: re.Match) -> Time | None:
    if not (match["minutes"] or match["clock"] or match["half"] or match["part"]):
        return None
    said = bool(match["clock"] or match["half"] or match["part"]) or "h" in match.group().lower()
    return _time(int(match["hours"]), int(match["minutes"] or 0), _half(match["half"], match["part"]), said)


def _spoken(match: re.Match) -> Time | None:
    hours, minutes = _HOURS[match["word"].lower()], 0
    if match["fraction"]:
        minutes = 30 if match["fraction"].lower() == "half" else 15
        if match["way"].lower() in ("to", "before"):
            hours, minutes = (hours - 2) % 12 + 1, 60 - minutes
    return _time(hours, minutes, _half(match["half"], match["part"]), True)


def _chinese(match: re.Match) -> Time | None:
    part, hours, minutes = match.groups()
    half = None if part is None else "p" if part in _LATE and int(hours) <= 12 else "a"
    return _time(int(hours), 30 if minutes == "半" else int(minutes or 0), half if int(hours) <= 12 else None, True)


def _half(letter: str | None, part: str | None) -> str | None:
    if letter:
        return letter.lower()
    return None if part is None else "p" if part.lower() in _LATE else "a"


def _time(hours: int, minutes: int, half: str | None, written_out: bool) -> Time | None:
    if hours > 24 or minutes > 59 or (half and not 1 <= hours <= 12):
        return None
    if half:
        return Time((hours % 12 + (12 if half == "p" else 0)) * 60 + minutes, True, written_out)
    beyond = hours > 12 or hours == 0
    return Time(hours % 24 * 60 + minutes, beyond, written_out, beyond)
