"""Boxes of a text: `\\boxed{...}` and its like, found in one pass, so that 100 kB of braces cost milliseconds."""

import re
from dataclasses import dataclass

TAIL_CHARS = 200_000
"""Only this much of the end of a response is searched for a box; 14,000 tokens are some 60,000 characters."""
NEAR_CHARS = 2_000
"""Where an outer box of the last one would begin: answers are far shorter."""

_BOX = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\+boxed\s+([^\s{}$\\]{1,64})|\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Box:
    content: str
    begin: int  # where its command begins, and the place behind its brace
    end: int


def last_box(text: str) -> str | None:
    """Content of the last balanced box that lies in no other balanced box, or None."""
    boxes = last_boxes(text)
    return boxes[-1].content if boxes else None


def last_boxes(text: str) -> list[Box]:
    """The balanced boxes at the end of a text that lie in no other balanced box, in order; of all the text only where none is there."""
    last = max(text.rfind("boxed"), text.rfind("fbox"))
    if last < 0:
        return []
    near = max(0, last - NEAR_CHARS)
    return boxes_from(text, near) or boxes_from(text, max(0, len(text) - TAIL_CHARS))


def outer_boxes(text: str) -> list[str]:
    """Contents of the balanced boxes that lie in no other balanced box, in order."""
    return [box.content for box in boxes_from(text, 0)]


def boxes_from(text: str, position: int) -> list[Box]:
    """Those that begin at a position or behind it.

    One pass with a stack: matching braces forward from each box would be quadratic for hostile input.
    """
    stack: list[tuple[int, int, bool]] = []  # where the command and the content of an open brace start, and is it a box
    boxes: list[Box] = []  # balanced and outermost so far, in order of their starts
    for match in _BOX.finditer(text, position):
        token = match.group()
        if match.group(1) is not None:
            boxes.append(Box(match.group(1), match.start(), match.end()))
        elif token == "}" and stack:
            command, begin, is_box = stack.pop()
            if is_box:
                _add_around(boxes, Box(text[begin : match.start()], command, match.end()))
        elif token[-1] == "{" and (len(token) > 2 or token == "{"):
            stack.append((match.start(), match.end(), token != "{"))
    return boxes


def _add_around(boxes: list[Box], box: Box) -> None:
    """In place of the boxes that lie in it."""
    while boxes and boxes[-1].begin >= box.begin:
        boxes.pop()
    boxes.append(box)
