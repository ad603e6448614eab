"""Which text of a response is its answer."""

import time

import pytest

from megatron_oreal.verify.extraction.answer import final_answer, gold_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so it is \boxed{5}.", "5"),
        (r"first \boxed{4}, then \boxed{5}", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}} as said", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \boxed{5}}", r"x = \boxed{5}"),
        (r"\boxed {5}", "5"),
        (r"\boxed 5 and done", "5"),
        (r"\fbox{5}", "5"),
        (r"\\boxed{5}", "5"),
        (r"a } stray { brace \boxed{5} here {", "5"),
        (r"\boxed{5} and \boxed{6", "5"),
        (r"<think>\boxed{4}</think> \boxed{5}", "5"),
        (r"\boxed{4} **Final Answer** \boxed{5}", "5"),
        (r"<thinking>\boxed{4}</thinking> \boxed{5}", "5"),
        (r"\boxed{\boxed{1}, \boxed{2}}", r"\boxed{1}, \boxed{2}"),
        (r"\boxed{4}<conclude>\boxed{5}</conclude>", "5"),
    ],
)
def test_the_last_balanced_box_after_thinking_is_the_answer(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        "5",
        r"\boxed{}",
        r"\boxed{ }",
        r"\boxed{5",
        r"<think>\boxed{5}</think> I give up",
        r"<think>\boxed{5}",
        r"\boxed{5}</think>",
        "boxed{5}",
    ],
)
def test_there_is_no_answer(response):
    assert final_answer(response) is None


def test_an_outer_box_far_before_the_last_one_is_found():
    inside = "x+" * 100 + r"\fbox{1}"
    assert final_answer(rf"\boxed{{{inside}}}") == inside


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5"),
        (" 5 ", "5"),
        (r"\boxed{5}", "5"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"Try \boxed{1}. That fails; take \boxed{2}.", "2"),
    ],
)
def test_a_gold_answer_may_stand_in_boxes(gold, answer):
    assert gold_answer(gold) == answer


@pytest.mark.parametrize("piece", ["{", "}", r"\boxed{", r"\boxed", "</think>", r"\boxed{1}", r"\{", "\\"])
def test_extraction_is_linear(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.thread_time()
    final_answer(text)
    assert time.thread_time() - started < 1
