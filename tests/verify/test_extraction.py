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


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"The answer is 4. But no: \boxed{5}", "5"),
        ("So the final answer is $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("The answer is 72, in total, so the farmer earns that much.", "72"),
        ("We have 3 left.\n\n**Answer:** C", "C"),
        ("Answer: (B) because 3 < 4", "B"),
        ("The answer is $x=3$ and $x=5$.", "x=3 and x=5"),
        ("He has 3 apples.\n#### 1,234", "1,234"),
        ("First we thought the answer was 4. In the end the answer is 5.", "5"),
        ("The total is 12, so each of them gets $3.50.", "3.50"),
        (r"Hence \[ x = \frac{3}{4}. \]", r"x = \frac{3}{4}"),
        ("The values are 3 and **7**.", "7"),
        ("所以答案是 $540$。", "540"),
        ("La réponse est 12.", "12"),
        ("La respuesta es $\\sqrt{2}$.", r"\sqrt{2}"),
        ("Die Antwort lautet 15.", "15"),
        ("Ответ: 9", "9"),
        ("<answer> 48480 </answer>", "48480"),
        ("<think>the answer is 4</think> I cannot say.", None),
        ("<think>the answer is 4", None),
        (r"So \boxed{7}. It is put into \boxed{}.", "7"),
        (r"The final answer is \boxed{\frac{1}{2}", r"\frac{1}{2}"),
        ("No idea.", None),
    ],
)
def test_an_answer_may_be_anywhere(response, answer):
    assert final_answer(response, "any") == answer


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
    final_answer(text, "any")
    assert time.thread_time() - started < 1
