"""A letter of a choice with its text or value: `(C) 12`, `C. 12`, `E - a risk score`."""

import re
from dataclasses import dataclass

from megatron_oreal.verify.rules.wording.vocabulary import plain

_WRAPPED = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{\s*"
_LETTER_FIRST = re.compile(
    rf"(?:{_WRAPPED})?(?P<lead>(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?\s*(?:\}}\s*(?:{_WRAPPED})?)?)?"
    rf"(?P<bracket>\(\s*)?(?P<letter>[A-J])(?P<close>\s*\))?(?P<brace>\s*\}})?(?P<mark>\s*[.:)](?=\s|$|\}}|\\)|\s+-+(?=\s))?(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_ANOTHER = re.compile(
    r"\s*(?:[,;/&]|\(\s*[A-J]\s*\)|(?:or|and)\b|\\(?:lor|vee|land|wedge|cup|cap|pm)(?![a-zA-Z])|[A-J]\s*$"
    r"|.*\b(?:or|and) \(?[A-J]\b|.*\([A-J]\))",
    re.DOTALL,
)
_GOES_ON = re.compile(r"\s*(?:[-=+<>^_*/!'|]|\\(?:in|cdot|times|le|ge|ne|leq|geq|neq|approx|equiv|subset|to)(?![a-z]))")
_WORDY = re.compile(r"[A-Za-z]{3}")


@dataclass(frozen=True)
class Choice:
    letter: str
    rest: str  # its text or value; empty where it stands alone


_CORRECT = re.compile(
    r"(?<=[A-J)}])(\s*(?:\\text\s*\{)?)\s+is (?:the )?(?:correct|right)(?: (?:one|answer|option|choice))?(?=\s*\}?$)"
    r"|(?<=[A-J])(),? (?:since|because) [^{}]*(?=\}?$)"
)


def choice(text: str) -> Choice | None:
    """The one letter that an answer chooses, and what stands with it; None where it chooses none, or several."""
    match = _LETTER_FIRST.fullmatch(_CORRECT.sub("", text))
    if match is None or not match["letter"].isupper() or bool(match["bracket"]) > bool(match["close"]):
        return None
    rest, mark = match["rest"], (match["mark"] or "").strip()
    if match["brace"] is None and rest.count("}") == rest.count("{") + 1 and text.startswith("\\"):
        rest = rest[:-1] if rest.endswith("}") and rest.count("{") == 0 else rest.replace("}", " ", 1)  # \text{C) } 12
    rest = rest.strip(" ~")
    if not rest:
        return Choice(match["letter"], "")
    closed = mark or match["close"]
    if not closed or _ANOTHER.match(plain(rest)) or (_GOES_ON.match(rest) and not mark) or (mark[0:1] == "-" and not _WORDY.search(rest)):
        return None
    return Choice(match["letter"], rest)


_SEVERAL = re.compile(r"\(?[A-H]\)?(?:(?:\s*[,;、&]\s*(?:and\s+)?|\s+and\s+|\s*)\(?[A-H]\)?)+")
_HEDGED = re.compile(r"(?:either )?\(?[A-H]\)?(?:\s*,?\s*or\s+\(?[A-H]\)?)+")
_TOGETHER = re.compile(r"[A-H]{2,8}")
_NUMBERED = re.compile(r"(?:\(\s*\d{1,2}\s*\)\s*[,;、]?\s*){2,}")
_LISTED = re.compile(r"\d{1,2}(?:\s*,\s*\d{1,2})+")


def same_choices(answer: str, gold: str) -> bool | None:
    """Whether the same letters or numbers are chosen, which one side writes apart, `A, B and D`, and the other together, `ABD`."""
    texts = [plain(text).rstrip(".") for text in (answer, gold)]
    if any(map(_NUMBERED.fullmatch, texts)) and any(map(_LISTED.fullmatch, texts)):  # (1)(3) and ①③
        numbers = [{int(number) for number in re.findall(r"\d+", text)} for text in texts]
        return numbers[0] == numbers[1]
    if any(map(_HEDGED.fullmatch, texts)) and all(_HEDGED.fullmatch(text) or _SEVERAL.fullmatch(text) for text in texts):
        return texts[0].casefold() == texts[1].casefold()
    together = [bool(_TOGETHER.fullmatch(text)) for text in texts]
    if together[0] == together[1] or not all(map(_SEVERAL.fullmatch, texts)):
        return None
    letters = [re.findall("[A-H]", text) for text in texts]
    joined = letters[together.index(True)]
    return set(letters[0]) == set(letters[1]) if joined == sorted(set(joined)) else None
