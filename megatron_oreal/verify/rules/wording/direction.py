"""Which way a change goes: 5 % decrease is not 5 %, and five kilometres north are not five south."""

import re
from dataclasses import dataclass

from megatron_oreal.verify.rules.wording.vocabulary import plain, words_of

_DOWN = frozenset(
    [
        "decrease",
        "decreased",
        "decreases",
        "decline",
        "declined",
        "drop",
        "dropped",
        "fall",
        "fell",
        "loss",
        "lost",
        "reduction",
        "reduced",
        "down",
        "off",
        "fewer",
        "less",
        "lower",
        "cheaper",
        "smaller",
        "shorter",
        "slower",
        "younger",
        "debt",
        "deficit",
        "discount",
    ]
)
_UP = frozenset(
    ["increase", "increased", "increases", "rise", "rose", "growth", "grew", "gain", "gained", "profit", "surplus", "more", "higher"]
)
_OPPOSITES = tuple(
    (frozenset(one.split()), frozenset(other.split()))
    for one, other in (
        ("left leftward", "right rightward"),
        ("clockwise", "counterclockwise anticlockwise"), ("above", "below"), ("before", "after"), ("am", "pm"), ("inside", "outside"),
        ("ahead", "behind"), ("early", "late"), ("faster", "slower"), ("taller", "shorter"), ("maximum max", "minimum min"),
    )
)  # fmt: skip
_COMPASS = frozenset(["north", "south", "east", "west", "northeast", "northwest", "southeast", "southwest"])
_COMPARISON = re.compile(r"\b(?:than|or)\b|[<>=]", re.IGNORECASE)
_IDLE = re.compile(r"^(?:(?:it|an?|the|of|by|is|was|has|will|been)\s+)+|\s+(?:of|by|in price)$", re.IGNORECASE)


@dataclass(frozen=True)
class Change:
    way: int  # 1 up, -1 down, 0 not said
    size: str  # the value alone


def change(text: str) -> Change:
    """The value of an answer, and which way it goes; 0 where it says none, or not in one word."""
    if not any(c.isdigit() for c in text):
        return Change(0, text)
    found = [word for word in words_of(plain(text)) if word in _DOWN or word in _UP]
    if len(found) != 1 or _COMPARISON.search(text):
        return Change(0, text)
    size = re.sub(rf"\b{found[0]}\b", " ", plain(text), flags=re.IGNORECASE)
    return Change(-1 if found[0] in _DOWN else 1, _IDLE.sub("", " ".join(size.split())).strip())


def opposed(answer: str, gold: str) -> bool:
    """Whether the two say opposite directions beside their values."""
    if not (any(c.isdigit() for c in answer) and any(c.isdigit() for c in gold)):
        return False
    ours, theirs = set(words_of(plain(answer))), set(words_of(plain(gold)))
    ways = ours & _COMPASS, theirs & _COMPASS
    return (all(ways) and ways[0] != ways[1]) or any(
        sides[0] == sides[1][::-1] and sides[0][0] != sides[0][1]
        for sides in ([(bool(words & one), bool(words & other)) for words in (ours, theirs)] for one, other in _OPPOSITES)
    )
