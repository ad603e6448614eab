"""No input makes the check raise, hang, run code or say right where it should not: hostile answers and fuzz."""

import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_oreal.verify import check, decide
from megatron_oreal.verify.rules.equivalence import compare

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 2.0  # of processor time: what a busy machine adds is not counted
GOLDS = ["5", r"\frac{1}{2}", "x^2+1", r"\{1, 2\}", "[0, 1)", r"\sqrt{2}+\sqrt{3}", r"\text{east}", r"\begin{pmatrix}1\\2\end{pmatrix}"]
HOSTILE = {
    "power tower": "9^{9^{9^{9^9}}}",
    "python power tower": "9**9**9**9",
    "factorial": "99999999!",
    "factorial of factorial": "((99!)!)!",
    "five hundred factorials": "5" + "!" * 500,
    "huge factorials": "+".join(f"{n}!" for n in range(1800, 1990)),
    "huge powers": "+".join(f"7^{{5{n:03d}}}" for n in range(100)),
    "huge binomial": r"\binom{10^9}{5\cdot 10^8}",
    "huge root": r"\sqrt[1000000]{2}",
    "huge scientific": "1e999999999",
    "tiny scientific": "1e-999999999",
    "huge sine": r"\sin(10^{10^{10}})",
    "towering exponential": "e^{e^{e^{e^{10}}}}",
    "nested brackets": "(" * 500 + "1" + ")" * 500,
    "nested braces": "{" * 500 + "1" + "}" * 500,
    "nested roots": r"\sqrt{" * 150 + "2" + "}" * 150,
    "nested fractions": r"\frac{1}{1+" * 80 + "x" + "}" * 80,
    "nested text": r"\text{" * 100 + "a" + "}" * 100,
    "nested subscripts": "x_{" * 200 + "}" * 200,
    "nested signs": r"(1\pm" * 15 + "1" + ")" * 15,
    "long quotient": "1" + "/2" * 500,
    "long minus": "-" * 1000 + "1",
    "long relation": "1<" * 300 + "2",
    "long list": "x," * 500 + "x",
    "thousands of thousands": "1,111" * 200,
    "many roots": ",".join(rf"\sqrt{{{n}}}" for n in range(2, 66)),
    "many sines": "+".join(rf"\sin(x^{{{n}}})" for n in range(60)),
    "bars": "|" * 900,
    "a million digits": "9" * 1_000_000,
    "spaces": " " * 100_000,
    "division by zero": r"\frac{1}{0}",
    "zero to the zero": "0^0",
    "infinity minus infinity": r"\infty-\infty",
    "null bytes": "5\0\0\0",
    "lone surrogate": "\ud800\udfff",
    "combining marks": "1" + "\u0301" * 500,
    "empty command": "\\",
    "open matrix": r"\begin{pmatrix}" * 60,
    "wide matrix": r"\begin{pmatrix}" + "&" * 300 + r"\end{pmatrix}",
    "half a fraction": r"\frac{1}{",
    "functions of functions": r"\operatorname{cis}" * 60 + "x",
    "sums of sums": r"\sum_{k=1}^{100}" * 30 + "k",
    "products of sums": r"\sum_{k=1}^{10}\prod_{k=1}^{10}" * 15 + "k",
    "a long sum": r"\sum_{k=1}^{10^{10}} k",
    "matrix times matrix": r"\begin{pmatrix}1&1\\1&1\end{pmatrix}" * 30,
    "determinants in determinants": r"\begin{vmatrix}1&2\\3&" * 20 + "x" + r"\end{vmatrix}" * 20,
    "cases in cases": r"\begin{cases}1&x<1\\" * 35 + "2" + r"\end{cases}" * 35,
    "dots": "0." + "12345678" * 100 + "...",
    "number words": "three hundred " * 80,
    "signs in brackets": "]" * 300 + "1,2" + "[" * 300,
    "half a system": r"\{\begin{array}{l}" * 60,
    "integrals": r"\int_0^1 " * 40 + "x dx",
    "spaces by command": ";\\\\" * 390,
    "open remarks": r"1 (\text{ " * 110,
    "open conditions": r", \text{ where k is an integer " * 40,
    "boxes for every part": r"$\boxed{1}$ and " * 500,
    "names without end": "P(A = " * 190,
    "numerals of signs": "百分之十" * 70,
    "families in families": r"k\pi, k \in \mathbb{Z}, " * 45,
    "quadratic regular expressions": "mod (" * 200,
}


def timed(response: str, gold: str):
    started = time.thread_time()
    verdict = decide(response, gold)
    assert time.thread_time() - started < LIMIT_S, f"{response[:60]!r} against {gold[:60]!r}"
    assert not verdict.reason.startswith("error"), f"{verdict.reason}: {response[:60]!r} against {gold[:60]!r}"
    assert verdict.decided or not verdict.right
    return verdict


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_not_right_and_cost_no_time(name):
    answer = HOSTILE[name]
    for gold in GOLDS:
        if (name, gold) != ("null bytes", "5"):
            assert not timed(rf"\boxed{{{answer}}}", gold).right
    timed(rf"\boxed{{{answer}}}", answer + "+0")  # a gold as hard as the answer
    timed(rf"\boxed{{{answer}}}", answer[::-1])


@pytest.mark.parametrize(
    "response", ["{" * 100_000, "}" * 100_000, r"\boxed{" * 15_000, r"\boxed{" * 15_000 + "}" * 15_000, "\\" * 100_000]
)
def test_hostile_responses_hold_no_answer(response):
    assert not timed(response, "5").right


IN_LITTLE_MEMORY = """
import resource, sys
from megatron_oreal.verify.rules.equivalence import compare
compare("2", r"\\sqrt{4}+\\sin 0")
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
for answer in sys.stdin.read().split(chr(0)):
    for gold in ("5", "x^2+1", answer + "+0"):
        reason = compare(answer, gold).reason
        assert "Memory" not in reason and "error" not in reason, (reason, answer[:60])
"""


def test_hostile_answers_need_no_memory():
    answers = "\0".join(answer for name, answer in HOSTILE.items() if name not in ("null bytes", "lone surrogate"))
    done = subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY], input=answers, text=True, capture_output=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-500:]


INJECTIONS = [
    "__import__('pathlib').Path('CANARY').touch()",
    "open('CANARY','w')",
    "exec(\"open('CANARY','w')\")",
    "(lambda: open('CANARY','w'))()",
    "5 if open('CANARY','w') else 5",
    r"\text{__import__('os').system('touch CANARY')}",
    "$(touch CANARY)",
    "`touch CANARY`",
    "x.__class__.__base__.__subclasses__()",
    r"\input{CANARY}",
    r"\write18{touch CANARY}",
    "{{5}}",
    "%s%n",
]


@pytest.mark.parametrize("injection", INJECTIONS)
def test_no_answer_is_run(injection, tmp_path):
    canary = tmp_path / "canary"
    assert not check(rf"\boxed{{{injection.replace('CANARY', str(canary))}}}", "7")
    assert not canary.exists()


def test_threads_do_not_disturb_each_other():
    pairs = [(r"\sqrt{8}", r"2\sqrt{2}"), (r"\sin 1", r"\cos(\frac{\pi}{2}-1)"), (r"\sqrt{8}", r"2\sqrt{3}"), (r"\ln 8", r"3\ln 2")]
    results: list[bool] = []

    def work():
        results.extend([compare(a, b).right for a, b in pairs] == [True, True, False, True] for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 80 and all(results)


PLAIN_PIECES = "0 1 2 7 12 1,000 + - * / ^ _ ! ( ) [ ] { } | , ; : = < > % & ' . ~ x y i e √ ½ ∞ and"
LATEX_PIECES = r"""\{ \} \\ \frac \sqrt \text{cm} \pi \infty \cup \pm \le \in \sin \ln \log_ \binom \overline{3} \circ \left( \right) \$
\boxed{ \begin{pmatrix} \end{pmatrix} \mathrm{d} \text{or}"""
PIECES = [*PLAIN_PIECES.split(), *LATEX_PIECES.split(), " "]
fuzz = settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@fuzz
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_pieces_of_latex_in_any_order(answer, gold):
    timed(rf"\boxed{{{answer}}}", gold)


@fuzz
@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text(answer, gold):
    timed(answer, gold)
    timed(rf"\boxed{{{answer}}}", gold)


atoms = st.sampled_from(["1", "2", "3", "7", "12", "x", "y", r"\pi", "0.5"])


TEMPLATES = r"(A+B) (A-B) A\cdot(B) \frac{A}{B} (A)^{2} (A)^{\frac{1}{2}} (A)^{-1} \sqrt{A} \sin(A) \ln(A)"


def larger(inner):
    pairs = st.tuples(st.sampled_from(TEMPLATES.split()), inner, inner)
    return pairs.map(lambda parts: "".join({"A": parts[1], "B": parts[2]}.get(c, c) for c in parts[0]))


expressions = st.recursive(atoms, larger, max_leaves=5)


@fuzz
@given(expressions)
def test_an_expression_is_itself_and_not_one_more(expression):
    respelled = expression.replace(r"\frac", r"\dfrac").replace(r"\cdot", r"\times").replace(" ", "")
    assert timed(rf"\boxed{{{respelled}}}", expression).right or not compare(respelled, expression).decided
    assert not timed(rf"\boxed{{{expression} + 1}}", expression).right
    assert not timed(rf"\boxed{{{expression}, 991}}", expression).right


@fuzz
@given(expressions, expressions)
def test_equality_goes_both_ways(one, other):
    there, back = timed(rf"\boxed{{{one}}}", other), timed(rf"\boxed{{{other}}}", one)
    assert there.right == back.right or not (there.decided and back.decided)
    assert there.right or one != other


STYLES = [r"N", r"$N$", r"\left(N\right)", r"x = N", r"N\text{ cm}", r"\boxed{N}", r"N.", r"\displaystyle N", r"{N}", r"**N**", r"\; N \,"]


@fuzz
@given(st.integers(-(10**12), 10**12).filter(bool), st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(STYLES), st.booleans())
def test_a_number_is_itself_and_no_other(top, bottom, change, style, decimal):
    """In every style: equal to itself in another spelling, and to nothing else."""
    value, changed = Fraction(top, bottom), Fraction(top + change, bottom)
    spelled = f"{value.numerator}/{value.denominator}"
    gold = rf"\frac{{{top}}}{{{bottom}}}" if not decimal else spelled
    assert timed(rf"\boxed{{{style.replace('N', spelled)}}}", gold).right
    wrong = f"{changed.numerator}/{changed.denominator}"
    for answer in (wrong, f"-({spelled})", f"{spelled}, {wrong}", rf"{spelled} \text{{ or }} {wrong}"):
        assert not timed(rf"\boxed{{{style.replace('N', answer)}}}", gold).right
