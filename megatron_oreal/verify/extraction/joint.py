"""Boxes that are one answer together: one for each part, with only a comma, `and`, or the part's name between them."""

import re

from megatron_oreal.verify.extraction.boxes import Box

MAX_BETWEEN = 60
MAX_PARTS = 12

_STYLING = re.compile(r"\\text\s*\{|\\?\$|\\[()\[\],;! ]|\\q?quad(?![a-z])|\*\*|[\s~}]+")
_NAME = r"(?P<name>\\?[a-zA-Z]+(?:_\{?\w{1,3}\}?)?'?(?: ?\([a-zA-Z0-9, ]{1,8}\))?) ?[=:]"
_UNIT = (
    r"(?:(?:cm|mm|m|km|kg|g|s|h|min|hours?|minutes?|days?|dollars?|cents?|degrees?|units?)(?![a-z])(?: ?\^ ?\{?[23]\}?)?"
    r"|\^ ?(?:\{ ?)?\\circ|\\?%|\((?:min|max|minimum|maximum)\))"
)
_JOINED = re.compile(
    rf" ?(?:{_UNIT} ?)?"
    r"(?P<joiner>(?:(?:[,;&、]|\band\b|\bor\b|和|以及|或) ?)+)(?P<hedge>(?:maybe|possibly|perhaps) ?)?"
    rf"(?:{_NAME}|\((?:[a-z]|\d|i{{1,3}}v?)\)[.:]?|(?:the|its|their)(?: [a-z]+){{1,3}} (?:is|are|equals))? ?",
    re.IGNORECASE,
)
_BEFORE = re.compile(rf"(?:^|[ (\[]){_NAME} ?$")
_ALTERNATIVE = re.compile(r"\bor\b|或", re.IGNORECASE)


def joined_boxes(text: str, boxes: list[Box]) -> str | None:
    """The last boxes of a text as one list where they are listed together, named if all have names; None where the last is alone."""
    links: list[re.Match] = []
    for before, after in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        link = _link(text[before.end : after.begin]) if len(links) < MAX_PARTS else None
        if link is None:
            break
        links.insert(0, link)
    if not links:
        return None
    parts = boxes[-len(links) - 1 :]
    return _listed(parts, _before(text[max(0, parts[0].begin - MAX_BETWEEN) : parts[0].begin]), links)


def _link(between: str) -> re.Match | None:
    return _JOINED.fullmatch(" ".join(_STYLING.sub(" ", between).split())) if len(between) <= MAX_BETWEEN else None


def _before(text: str) -> str | None:
    """The name that stands right before the first box."""
    match = _BEFORE.search(" ".join(_STYLING.sub(" ", text).split()))
    return match["name"] if match else None


def _listed(parts: list[Box], first_name: str | None, links: list[re.Match]) -> str:
    names = [first_name, *(link["name"] for link in links)]
    contents = [part.content.strip() for part in parts]
    if all(names):
        contents = [f"{name} = {content}" for name, content in zip(names, contents, strict=True)]
    alternative = any(_ALTERNATIVE.search(link["joiner"]) or link["hedge"] for link in links)
    return (r" \text{ or } " if alternative else ", ").join(dict.fromkeys(contents))
