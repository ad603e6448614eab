"""Boxes of a text: `\\boxed{...}` and its like, found in one pass, so that 100 kB of braces cost milliseconds."""

import re

TAIL_CHARS = 200_000
"""Only this much of the end of a response is searched for a box; 14,000 tokens are some 60,000 characters."""
NEAR_CHARS = 2_000
"""Where an outer box of the last one would begin: answers are far shorter."""

_BOX = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\+boxed\s+([^\s{}$\\]{1,64})|\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    """Content of the last balanced box that lies in no other balanced box, or None.

    The end of the text is searched first; all of it only where no box is balanced there.
    """
    last = max(text.rfind("boxed"), text.rfind("fbox"))
    if last < 0:
        return None
    boxes = outer_boxes(text[max(0, last - NEAR_CHARS) :]) or outer_boxes(text[-TAIL_CHARS:])
    return boxes[-1] if boxes else None


def outer_boxes(text: str) -> list[str]:
    """Contents of the balanced boxes that lie in no other balanced box, in order.

    One pass with a stack: matching braces forward from each box would be quadratic for hostile input.
    """
    stack: list[tuple[int, bool]] = []  # where the content of an open brace starts, and is it a box
    boxes: list[tuple[int, int]] = []  # balanced and outermost so far, in order of their starts
    for match in _BOX.finditer(text):
        token = match.group()
        if match.group(1) is not None:
            boxes.append(match.span(1))
        elif token == "}" and stack:
            begin, is_box = stack.pop()
            if is_box:
                _add_around(boxes, (begin, match.start()))
        elif token[-1] == "{" and (len(token) > 2 or token == "{"):
            stack.append((match.end(), token != "{"))
    return [text[slice(*box)] for box in boxes]


def _add_around(boxes: list[tuple[int, int]], box: tuple[int, int]) -> None:
    """In place of the boxes that lie in it."""
    while boxes and boxes[-1][0] >= box[0]:
        boxes.pop()
    boxes.append(box)
