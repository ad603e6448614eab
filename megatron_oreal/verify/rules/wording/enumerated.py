"""Answers of several parts by their marks, and tuples with their permutations: (i) 3 (ii) 5; (1, 2, 3) and its permutations."""

import re
from itertools import permutations

from megatron_oreal.verify.rules.wording.vocabulary import TEXT

_MARK = re.compile(rf"(?:{TEXT})?\(\s*(?P<mark>i{{1,3}}|iv|[a-d]|[1-4])\s*\)\s*[.:]?(?:\s*\}})?\s*")
_ORDERS = (("i", "ii", "iii", "iv"), ("a", "b", "c", "d"), ("1", "2", "3", "4"))
_PERMUTED = re.compile(
    rf"\((?P<items>[^()]+)\)\s*,?\s*(?:{TEXT})?,?\s*(?:and |with |or |along with )?(?:all )?(?:of )?(?:its |their |the |any )?"
    r"(?P<cyclic>cyclic )?permutations?(?: thereof| of it| of these)?\s*\}?",
    re.IGNORECASE,
)
_CUT = re.compile(r"^[+*/=^_]|[-+*/=^_]$")
MAX_PERMUTED = 4


def with_parts_apart(text: str) -> str:
    """Parts with their marks as a tuple, and every permutation of a tuple written out; any other answer as it is."""
    if "ermut" in text:
        return _permuted(text)
    marks = list(_MARK.finditer(text)) if text.count("(") > 1 else []
    names = tuple(match["mark"] for match in marks)
    if len(marks) < 2 or marks[0].start() or not any(names == order[: len(names)] for order in _ORDERS):
        return text
    ends = [match.start() for match in marks[1:]] + [len(text)]
    parts = [text[match.end() : end].strip(" ,;.") for match, end in zip(marks, ends, strict=True)]
    whole = all(_is_whole(part) for part in parts)
    return f"({', '.join(parts)})" if whole else text


def _is_whole(part: str) -> bool:
    """Not cut from a sum, as in (a)x + (b)y."""
    return bool(part) and part.count("{") == part.count("}") and part.count("(") == part.count(")") and not _CUT.search(part)


def _permuted(text: str) -> str:
    match = _PERMUTED.fullmatch(text)
    items = [item.strip() for item in match["items"].split(",")] if match else []
    if not 1 < len(items) <= MAX_PERMUTED:
        return text
    every = [items[k:] + items[:k] for k in range(len(items))] if match["cyclic"] else permutations(items)
    return ", ".join(dict.fromkeys(f"({', '.join(one)})" for one in every))
