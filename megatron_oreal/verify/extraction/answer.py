"""The final answer of a response: the last box after the end of thinking, or what stands for it. Linear in the length of the response."""

import re

from megatron_oreal.verify.extraction.anywhere import answer_anywhere
from megatron_oreal.verify.extraction.boxes import last_boxes, outer_boxes
from megatron_oreal.verify.extraction.joint import joined_boxes

END_OF_THINKING = ("</think>", "</thinking>", "**Final Answer**", "<conclude>")
MAX_NESTED_BOXES = 3

_JOINT = re.compile(r",|\band\b|\}\s*\\")
MAX_JOINT = 30
"""Characters between two boxes of a gold answer that are one list."""


def final_answer(response: str, extract: str = "boxed") -> str | None:
    """Content of the last box after the end of thinking, stripped; None where there is none or it is empty.

    Boxes that are listed together (\\boxed{3} and \\boxed{5}) are one answer, a list. `extract`: with "any", where no box is, the
    answer that is stated otherwise.
    """
    text = after_thinking(response)
    boxes = last_boxes(text)
    if extract == "any":
        boxes = [box for box in boxes if box.content.strip()]
    if not boxes:
        return answer_anywhere(text) if extract == "any" else None
    joined = joined_boxes(text, boxes)
    if joined is not None:
        return joined
    box = boxes[-1].content
    for _ in range(MAX_NESTED_BOXES):
        inner = outer_boxes(box) if box.lstrip().startswith(("\\boxed", "\\fbox")) else []
        box = inner[0] if len(inner) == 1 else box
    return box.strip() or None


def after_thinking(response: str) -> str:
    """What follows the last end-of-thinking mark; empty where thinking began and never ended."""
    end = max((response.rfind(mark) + len(mark) if mark in response else 0) for mark in END_OF_THINKING)
    tail = response[end:]
    return "" if "<think>" in tail or "<thinking>" in tail else tail


def gold_answer(gold: str) -> str:
    """The gold answer without a box around it; boxes joined by a comma or `and` are a list."""
    boxes = outer_boxes(gold) if "box" in gold else []
    if not boxes:
        return gold.strip()
    between = gold[gold.find(boxes[0]) + len(boxes[0]) : gold.rfind(boxes[-1])]
    listed = len(between) < MAX_JOINT * len(boxes) and _JOINT.search(between)
    return (", ".join(boxes) if listed else boxes[-1]).strip()
