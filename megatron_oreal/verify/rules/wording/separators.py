"""Thousands and decimals as they are written elsewhere: 1.234,50 and 1.234.567 and 12,5 kg."""

import re

_EUROPEAN = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:\.\d{3})+),(\d+)(?![\d.,])")
_POINTS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.,])")
_SPACED = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?: \d{3})+),(\d+)(?![\d.,])")
_JOINED = re.compile(r"(?<![\d.,])(\d{4,}),(\d{1,2})(?![\d.,])")
_INDIAN = re.compile(r"[1-9]\d?(?:,\d\d)+,\d{3}(?:\.\d+)?")
_ONE_COMMA = re.compile(r"([^\d]*)(\d+),(\d+)([^\d]*)", re.DOTALL)
_ONE_POINT = re.compile(r"[^\d]*(\d+)\.(\d+)[^\d]*", re.DOTALL)
_BRACKETS = re.compile(r"[()\[\]]|\\\{|\\(?:cup|cap|in)(?![a-z])")


def with_points(text: str, other: str) -> str:
    """A number of thousands in points or spaces and decimals behind a comma, as 1234.50; a list or a pair stays as it is."""
    if _BRACKETS.search(text):
        return text
    if _INDIAN.fullmatch(text):
        return text.replace(",", "")
    if text.count(",") == 1:
        text = _EUROPEAN.sub(lambda m: f"{m.group(1).replace('.', '')}.{m.group(2)}", text)
        text = _SPACED.sub(lambda m: f"{m.group(1).replace(' ', '')}.{m.group(2)}", text)
        text = _JOINED.sub(r"\1.\2", text)
    elif "," not in text:
        text = _POINTS.sub(lambda m: m.group().replace(".", ""), text)
    return _with_decimal_point(text, other)


def _with_decimal_point(text: str, other: str) -> str:
    """12,5 kg beside 12.5 kg: the same figures, and so no list."""
    mine, theirs = _ONE_COMMA.fullmatch(text), _ONE_POINT.fullmatch(other)
    dressed = mine and (mine.group(1).strip() or mine.group(4).strip() or len(mine.group(3)) != 3)
    if mine and theirs and dressed and mine.group(2, 3) == theirs.group(1, 2) and not _BRACKETS.search(other):
        return f"{mine.group(1)}{mine.group(2)}.{mine.group(3)}{mine.group(4)}"
    return text
