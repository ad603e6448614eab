"""The final answer of a response: the last box after the end of thinking.

Every step is linear in the length of the response, so that 100 kB of braces cost milliseconds.
"""

import re

END_OF_THINKING = ("</think>", "</thinking>", "**Final Answer**", "<conclude>")
TAIL_CHARS = 200_000
"""Only this much of the end of a response is searched for a box; 14,000 tokens are some 60,000 characters."""
NEAR_CHARS = 2_000
"""Where an outer box of the last one would begin: answers are far shorter."""
MAX_NESTED_BOXES = 3

_BOX = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\+boxed\s+([^\s{}$\\]{1,64})|\\.|[{}]", re.DOTALL)

_JOINT = re.compile(r",|\band\b|\}\s*\\")
MAX_JOINT = 30
"""Characters between two boxes of a gold answer that are one list."""


def after_thinking(response: str) -> str:
    """What follows the last end-of-thinking mark; empty where thinking began and never ended."""
    end = max((response.rfind(mark) + len(mark) if mark in response else 0) for mark in END_OF_THINKING)
    tail = response[end:]
    return "" if "<think>" in tail or "<thinking>" in tail else tail


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
        elif token == "}":
            if stack:
                begin, is_box = stack.pop()
                if is_box:
                    while boxes and boxes[-1][0] >= begin:
                        boxes.pop()
                    boxes.append((begin, match.start()))
        elif token[-1] == "{" and (len(token) > 2 or token == "{"):
            stack.append((match.end(), token != "{"))
    return [text[slice(*box)] for box in boxes]


def final_answer(response: str) -> str | None:
    """Content of the last box after the end of thinking, stripped; None where there is none or it is empty."""
    box = last_box(after_thinking(response))
    if box is None:
        return None
    for _ in range(MAX_NESTED_BOXES):
        inner = outer_boxes(box) if box.lstrip().startswith(("\\boxed", "\\fbox")) else []
        box = inner[0] if len(inner) == 1 else box
    return box.strip() or None


def gold_answer(gold: str) -> str:
    """The gold answer without a box around it; boxes joined by a comma or `and` are a list."""
    boxes = outer_boxes(gold) if "box" in gold else []
    if not boxes:
        return gold.strip()
    between = gold[gold.find(boxes[0]) + len(boxes[0]) : gold.rfind(boxes[-1])]
    listed = len(between) < MAX_JOINT * len(boxes) and _JOINT.search(between)
    return (", ".join(boxes) if listed else boxes[-1]).strip()
