"""What a misspelt name may have meant."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

MOST = 3
ALIKE = 0.75
"""Ratios of difflib: `trian` and `train` have 0.8."""
ENDS_ALIKE = 0.6
AS_NEAR = 0.05


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """At most three of the known names, the nearest first: dotted keys that end as the word does, else those written like it."""
    known = list(dict.fromkeys(known))
    ends_so = [key for key in known if key.endswith(f".{word}")]
    if ends_so:
        return ends_so[:MOST]
    alike = [key for key in get_close_matches(word, known, 4 * MOST, ALIKE) if _ratio(_last(word), _last(key)) >= ENDS_ALIKE]
    if alike:
        return [key for key in alike if _ratio(word, key) >= _ratio(word, alike[0]) - AS_NEAR][:MOST]
    ends = get_close_matches(_last(word), {_last(key) for key in known}, 1, ALIKE)
    return [key for key in known if _last(key) in ends][:MOST]


def hint(word: str, known: Iterable[str]) -> str:
    """For the end of a line: "; did you mean a or b?", empty where nothing is near."""
    found = nearest(word, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
