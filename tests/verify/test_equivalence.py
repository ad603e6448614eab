"""Hand-picked truths by category: (gold, answers that are right, answers that are wrong)."""

import subprocess
import sys

import pytest

from megatron_oreal.verify import check, decide
from megatron_oreal.verify.rules.equivalence import compare

TRUTHS = {
    "whole numbers": [
        ("42", ["42", "042", "42.0", "+42", "42.", "(42)", r"\frac{84}{2}", r"6 \cdot 7", r"\text{42}", r"42\,", "$42$"],
         ["43", "-42", "24", "4.2", "420"]),
        ("-7", ["-7", "- 7", "−7", "–7"], ["7", "-7.1"]),
        ("12345678901234567890", ["12345678901234567890", "12,345,678,901,234,567,890"],
         ["12345678901234567891", "1.2345678901234567e19"]),
        ("1000000", ["1,000,000", r"1{,}000{,}000", r"1,\!000,\!000", "1 000 000", "10^6", "1e6"], ["1,000,001", "1,000", "100,000"]),
    ],
    "exact, never rounded": [
        (r"\frac{2}{3}", [r"\dfrac23", "2/3", r"\frac{4}{6}", r"0.\overline{6}"], ["0.667", "0.6666666666666667", r"\frac{3}{2}"]),
        ("0.5", [r"\frac12", "1/2", ".5", "0.50"], ["0.49999999999999999999", "5"]),
        (r"\sqrt{2}", [r"2^{1/2}", r"\frac{2}{\sqrt 2}", "√2"], ["1.41421356237", "2", r"-\sqrt{2}"]),
        (r"\pi", [r"\pi", r"\frac{2\pi}{2}"], ["3.14159", r"\frac{22}{7}"]),
        (r"1.6 \times 10^{-19}", ["1.6e-19", r"16 \cdot 10^{-20}"], ["1.7e-19", "0", r"1.6 \times 10^{-20}"]),
        ("7.78", ["7.78", r"\frac{70}{9} \approx 7.78"], [r"\frac{70}{9}", r"70 \approx 7.78"]),
    ],
    "numbers written otherwise": [
        ("1.22", ["1,22", r"1{,}22"], ["1, 22", "122"]),
        ("1234.5", ["1.234,5", "1,234.5"], ["1.234", "12345"]),
        ("0,111", ["0.111"], ["111"]),
        (r"\frac{1}{6}", [r"0.1666...", r"0.166\overline{6}", r"0.1666\ldots"], ["0.1666", "0.16..."]),
        (r"\frac{1}{3}", ["0.(3)", r"\frac13 (\approx 0.33)"], ["0(3)"]),
        ("7425000", ["7.425 million", r"7.425\text{ million}"], ["7.425", "7425 million"]),
        ("25", ["twenty-five", r"\text{twenty five}"], ["twenty-six", "twenty", r"\text{twenty-five or six}"]),
        ("302", ["three hundred and two"], ["three hundred", "three and two"]),
        ("6", ["six"], ["one two three", "twenty six", r"\text{six or seven}"]),
        ("4", ["4th", "4^{th}", r"4^{\text{th}}"], ["5th", "4^t"]),
        (r"33\frac{1}{3}\%", [r"33\frac13", r"\frac{100}{3}", r"33 1/3\%"], [r"\frac13", "33"]),
        ("15", ["5!!"], ["5!", "(5!)!"]),
        ("120", [r"_{10}C_{3}", "C(10,3)", r"\mathrm{C}_{10}^{3}", r"\prod_{k=1}^{5} k"], ["C(10,4)", r"\prod_{k=1}^{4} k"]),
        ("55", [r"\sum_{k=1}^{10} k", r"\sum_{i=1}^{10} i"], [r"\sum_{k=1}^{9} k", r"\sum_{k=1}^{10} k^2"]),
        (r"\frac{1+i\sqrt{3}}{2}", [r"\operatorname{cis} 60^\circ", r"e^{i\pi/3}"], [r"\operatorname{cis} 30^\circ"]),
    ],
    "dots are no answer": [
        ("1, 2, 3", ["3, 2, 1"], ["1, 2, 3, ...", r"1, 2, 3, \ldots"]),
        ("5", ["5."], ["5, ...", r"5 + \cdots"]),
        (r"1 + 2 + \cdots + n", [r"1 + 2 + \ldots + n"], [r"1 + 2 + \cdots + m"]),
    ],
    "tiny and large, never taken for equal": [
        (r"\frac{1}{2004!}", [r"\frac{2005}{2005!}"], [r"\frac{1}{2006!}", "0"]),
        (r"10^{-100}\sqrt{2}", [r"10^{-100}\frac{\sqrt{8}}{2}"], [r"10^{-100}\sqrt{3}", "0"]),
        (r"2^{300}\sqrt{2}", [r"2^{299}\sqrt{8}"], [r"2^{300}\sqrt{2} + 1"]),
    ],
    "mixed numbers": [
        (r"\frac{7}{2}", [r"3\frac{1}{2}", r"3\tfrac12", "3 1/2", "3.5"], [r"\frac{3}{2}", r"3\cdot\frac{1}{2}", r"2\frac{1}{2}"]),
        (r"-3\frac{1}{2}", ["-3.5"], ["-2.5", "3.5"]),
        ("31/2", ["15.5"], ["3 1/2", "3 12"]),
    ],
    "units, percent, currency": [
        ("5", [r"5\text{ cm}", "5 cm", r"5\,\mathrm{m}^2", r"\$5", "5 dollars", r"5\%", r"5^\circ", "5 min", r"5 \text{ red marbles}"],
         [r"5\text{ is wrong}", r"5 \text{ or } 6"]),
        (r"5\text{ cm}", ["5", "5 cm", r"5 \text{ centimeters}", r"5 \text{ units}"], [r"5\text{ m}", r"0.05\text{ m}", "50"]),
        (r"5\text{ cm}^2", [r"5\text{ square centimeters}", "5"], [r"5\text{ cm}^3", "25", "5^2"]),
        (r"60\text{ miles per hour}", ["60 mph", "60"], [r"60\text{ km}"]),
        (r"50\%", ["50", r"50\text{ percent}"], ["0.5", r"\frac12", "5000", r"50^\circ"]),
        (r"54\text{ m}", ["54 m", "54 metres"], ["54 cm", "53 m"]),
        ("54", [r"54\text{ m}", r"54^{\text{th}}"], ["54m", r"54 \text{ million}", "54x"]),
        (r"\$1.50", ["1.5", r"1.50\text{ dollars}"], ["150", r"1.50\text{ cents}"]),
        (r"2t", [r"\mathbf{2t}", "2 t"], ["2", r"2\text{ cm}"]),
        (r"90^\circ", ["90", r"90\text{ degrees}", "90°", r"90{}^\circ"], [r"\frac{\pi}{2}", "91"]),
        (r"30^\circ 15'", ["30.25", r"30°15'", r"30.25^\circ"], [r"30^\circ 16'", "30"]),
        (r"98.6^\circ\text{F}", ["98.6", "98.6°F", r"98.6^\circ"], [r"98.6^\circ C"]),
        (r"\frac12\text{ inch}", ['0.5"', "0.5''", "0.5 in"], ["1", r"0.5\text{ ft}"]),
        (r"60\text{ mph}", ["60 mi/h", r"60\frac{\text{mi}}{\text{hr}}"], [r"60\frac{\text{km}}{\text{hr}}"]),
        ("15", ["15m²", "15 m³"], ["15m^2"]),
        ("USD 12.50", ["12.5", r"\$12.50"], ["1250"]),
    ],
    "lists and sets": [
        ("1, 2, 3", ["3, 2, 1", r"\{1,2,3\}", r"1, 2 \text{ and } 3", "{1,2,3}", "x = 1, x = 2, x = 3", "1; 2; 3"],
         ["1, 2", "1, 2, 3, 4", "(1,3,2)", "1"]),
        (r"\{1, 2\}", [r"x = 1 \text{ or } x = 2", "2, 1", r"x_1 = 1, x_2 = 2", r"x \in \{1, 2\}"], ["(1, 2)", "[1, 2]"]),
        (r"\pm 3", ["3, -3", r"\{-3, 3\}", r"x = \pm 3"], ["3", "-3"]),
        (r"1 \pm \sqrt{2}", [r"1-\sqrt2, 1+\sqrt2"], [r"1+\sqrt2", r"\pm\sqrt2"]),
        ("7", ["7"], ["7, 8", r"7 \text{ or } 8", r"\pm 7", "[6, 8]", r"\{7, 8\}"]),
        ("(1,2), (3,4)", ["(3,4), (1,2)", r"\{(1,2),(3,4)\}", "x=1,y=2;x=3,y=4"], ["(2,1), (3,4)", "(1,2)"]),
        ("100,200", ["100, 200", "200, 100"], ["100"]),
        ("1, 2, 2", ["2, 1, 2"], ["1, 1, 2"]),
        ("n = 1, 2, 3", [r"n \in \{1, 2, 3\}", "3, 2, 1"], [r"n \in \{1, 2\}"]),
        (r"\text{Alice, Bob}", [r"\text{Bob and Alice}", "Bob, Alice"], ["Alice", "Alice, Carol"]),
    ],
    "tuples and vectors": [
        ("(1,2)", [r"\left( 1, 2 \right)", r"\langle 1, 2 \rangle", "（1，2）", "x = 1, y = 2", "(x, y) = (1, 2)"],
         ["(2,1)", "[1,2]", "(1,2]", "(1,2,3)", r"\{1,2\}"]),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         [r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\left(\begin{array}{cc} 1 & 2 \\ 3 & 8/2 \end{array}\right)"],
         [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
          r"\begin{pmatrix} 3 & 4 \\ 1 & 2 \end{pmatrix}"]),
        ("x = 1, y = 2", ["(x, y) = (1, 2)", r"\begin{cases} x = 1 \\ y = 2 \end{cases}",
             r"\left\{\begin{array}{l} x = 1 \\ y = 2 \end{array}\right."], ["(x, y) = (2, 1)"]),
        (r"\begin{cases} x & \text{if } x > 0 \\ 0 & x \le 0 \end{cases}", [r"\begin{cases} 0, & x \le 0 \\ x, & x > 0 \end{cases}"],
         [r"\begin{cases} x & x \ge 0 \\ 1 & x < 0 \end{cases}", r"\begin{cases} x & x \ge -1 \\ 0 & x < -1 \end{cases}"]),
        (r"\begin{pmatrix} 6 & 8 \\ 10 & 12 \end{pmatrix}",
         [r"2\begin{pmatrix} 3 & 4 \\ 5 & 6 \end{pmatrix}", "[[6, 8], [10, 12]]",
          r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} + \begin{pmatrix} 5 & 6 \\ 7 & 8 \end{pmatrix}"],
         [r"2\begin{pmatrix} 3 & 4 \\ 5 & 7 \end{pmatrix}", "[[6, 10], [8, 12]]"]),
        (r"\begin{pmatrix} 2 & 1 \\ 4 & 3 \end{pmatrix}",
         [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}"],
         [r"\begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"]),
        ("-2", [r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}"], [r"\begin{vmatrix} 1 & 2 \\ 3 & 5 \end{vmatrix}"]),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", ["(1, 2)"], ["(2, 1)", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"]),
    ],
    "intervals and inequalities": [
        ("(1,3]", [r"1 < x \le 3", r"x \in (1, 3]", r"x > 1 \text{ and } x \leq 3", "]1,3]", r"\{x : 1 < x \le 3\}"],
         ["[1,3]", "(1,3)", r"1 \le x < 3"]),
        (r"(-\infty, 2) \cup (2, \infty)", [r"x \ne 2", r"\mathbb{R} \setminus \{2\}", r"x < 2 \text{ or } x > 2",
             r"(2,\infty)\cup(-\infty,2)"],
         ["x = 2", r"(-\infty, \infty)", r"(-\infty,2] \cup (2,\infty)"]),
        ("x > 5", [r"5 < x", r"(5, \infty)", "2x > 10", "> 5"], [r"x \ge 5", "x < 5", "5", "x = 5", "y > 5"]),
        ("2x + 3y < 6", ["-2x - 3y > -6", "6 > 3y + 2x"], ["2x + 3y > 6", r"2x + 3y \le 6", "2x + 3y = 6"]),
        ("|x| < 3", ["-3 < x < 3", "(-3, 3)"], ["x < 3", "x > -3"]),
        (r"-2 \le x \le 7", [r"x \ge -2, x \le 7", r"|x - 2.5| \le 4.5", r"7 \ge x \ge -2"],
         [r"x \ge -2 \text{ or } x \le 7", r"|x| \le 4.5"]),
        (r"\{-1\} \cup [0, 7)", [r"x = -1 \text{ or } 0 \le x < 7", "{-1} ∪ [0,7["], ["[-1, 7)"]),
        (r"(-\infty, \frac13)", ["3x < 1", "1 - 3x > 0"], ["3x > 1"]),
        (r"(-\sqrt{5}, \sqrt{5})", ["x^2 < 5", r"5 - x^2 > 0"], [r"x^2 \le 5", "x^2 > 5", "x^2 < 4"]),
        (r"(-\infty, 0) \cup (1, \infty)", ["x^2 > x", "x(x - 1) > 0", "x(x-1)(x^2+1) > 0"], [r"x^2 \ge x", "x > 1"]),
        (r"\mathbb{R} \setminus \{-1, 1\}", [r"x \ne \pm 1", r"x \neq -1, 1", r"x \neq 1, x \neq -1", r"\{x \mid x \ne \pm 1\}"],
         [r"x \ne 1", r"x = \pm 1", r"x \neq 1, 2"]),
        (r"\mathbb{R}", ["x^2 + 1 > 0"], ["x^2 > 0"]),
        ("a < b < c", ["c > b > a"], ["a < c < b"]),
        (r"(0, \infty)", [r"\mathbb{R}^+", r"\mathbb{R}_{>0}", "]0, ∞["], [r"\mathbb{R}"]),
        (r"\{x \mid x > 2\}", [r"\{y : y > 2\}"], [r"\{y : y < 2\}"]),
        (r"(-\infty, 3]", ["x ≤ 3"], [r"[-\infty, 3]"]),
        (r"\text{all real numbers}", [r"(-\infty, \infty)", r"\mathbb{R}"], ["(0, \\infty)", "0"]),
        (r"\text{no solution}", [r"\emptyset", "no solutions", r"\text{There is no solution}"],
         [r"\{\emptyset\}", "(3, 1)", "(1, 3)", "0"]),
    ],
    "equations and assignments": [
        ("5", ["x = 5", "5 = x", "f(2) = 5", r"P(A \cap B) = 5", "2 + 3 = 5", r"m\angle ABC = 5^\circ", r"\text{Area} = 5"],
         ["7 = 5", "x > 5", r"\neq 5", "2x = 5", "x = 5, y = 6"]),
        ("x = 5", ["5", "x=5"], ["y = 5", "x", "x = -5"]),
        ("y = 2x + 1", ["y = 1 + 2x", "2x - y + 1 = 0", "2y = 4x + 2", "2x + 1 = y"], ["y = 2x - 1", "y = 2x", "2x + y + 1 = 0"]),
        ("x - y = 3", ["y = x - 3", "x = 3 + y"], ["3", "x + y = 3"]),
        ("xy = 2", [r"y = \frac{2}{x}"], [r"y = \frac{x}{2}"]),
        ("x + 1", ["f(x) = x + 1", "y = 1 + x", "f^{-1}(x) = x + 1"], ["x - 1", "f(x) = x"]),
    ],
    "congruences and families": [
        (r"x \equiv 2 \pmod 5", [r"x \equiv 7 \pmod{5}", r"x \equiv 2\ (\text{mod } 5)", r"x \equiv 2 \mod 5"],
         [r"x \equiv 2 \pmod 7", r"x \equiv 3 \pmod 5", "x = 2"]),
        (r"\{2k\pi \mid k \in \mathbb{Z}\}", [r"x = 2n\pi, n \in \mathbb{Z}", r"2\pi k"],
         [r"k\pi, k \in \mathbb{Z}", r"2n\pi, n \in \mathbb{N}"]),
        (r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}", [r"F_n = \sum_{k=0}^{n-1} F_{n-k-1} F_k"], [r"F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2}"]),
    ],
    "figures": [
        (r"\angle ABC", [r"\angle CBA"], [r"\angle BCA", r"\angle ABD"]),
        (r"\angle A_1 = 90^\circ, \angle B_1 = 30^\circ", [r"\angle B_1 = 30^\circ, \angle A_1 = 90^\circ"],
         [r"\angle A_2 = 90^\circ, \angle B_1 = 30^\circ"]),
    ],
    "marks around an answer": [
        ("42", ["**42**", "`42`", '"42"', r"\textcolor{red}{42}", r"42 \checkmark", r"\Rightarrow 42", r"\mathbf{\boxed{42}}", r"42 \\",
                r"\text{exactly } 42", r"\textbf{Answer: } 42", ": 42", r"\underline{42}"], [r"\cancel{42}", "**24**", '"42" or "43"']),
        ("x = 11", [r"x = \boxed{11}"], [r"\boxed{11} \text{ or } \boxed{12}"]),
    ],
    "expressions": [
        ("x^2 + 2x + 1", ["(x+1)^2", "1 + x^2 + 2x", "(1+x)(x+1)"], ["y^2 + 2y + 1", "x^2 + 2x", "-(x+1)^2"]),
        (r"\frac{1}{x-1}", [r"-\frac{1}{1-x}", "1/(x-1)"], [r"\frac{1}{1-x}", "x - 1"]),
        (r"\sin^2 x", [r"(\sin x)^2", r"1 - \cos^2 x", r"\frac{1-\cos 2x}{2}"], [r"\sin x^2", r"\cos^2 x"]),
        (r"\ln 2", [r"-\ln \frac12", r"\frac{\ln 4}{2}", r"\log 2"], ["2", r"\ln 3"]),
        (r"\ln|x| + C", ["C + \\ln|x|", r"\ln |x| + c"], [r"\ln|x|", r"\ln x + C"]),
        (r"\sqrt{x^2}", ["|x|"], ["x"]),
        ("|x - 20|", ["|20 - x|"], ["20 - x", "x - 20"]),
        (r"\sum_{k=1}^{n} k^2", [r"\sum_{k=1}^n k^{2}"], [r"\sum_{k=1}^n k"]),
        ("3 + 4i", ["4i + 3", r"3 + 4 \cdot i"], ["3 - 4i", "4 + 3i", "3 + 4"]),
        (r"2^{n+1}", [r"2 \cdot 2^n"], ["2^n", "2n + 2"]),
        (r"\binom{5}{2}", ["10", r"{5 \choose 2}", r"\frac{5!}{2!3!}"], [r"\frac52", "25"]),
        ("0", [r"\sqrt{3+2\sqrt{2}} - \sqrt{2} - 1"], [r"10^{-40}"]),
        (r"\sqrt[3]{-8}", ["-2", "(-8)^{1/3}"], ["2"]),
    ],
    "sizes beyond floats": [
        ("3^{2019}", [r"3 \cdot 3^{2018}", r"\frac{3^{2020}}{3}"], ["3^{2018}", "3^{2019} + 1", "2019^3"]),
        ("2^{1000000}", ["4^{500000}"], ["2^{1000000} + 1", "2^{999999}"]),
        (r"10^{-20}", [r"\frac{1}{10^{20}}"], ["0", "10^{-21}"]),
    ],
    "bases, ratios, times": [
        ("1101_2", ["1101_{2}", r"1101_{\text{2}}"], ["1101_3", "1011_2", "13"]),
        ("1A_{16}", ["1A_{16}", r"\text{1A}_{16}"], ["1B_{16}"]),
        ("BEE_{16}", [r"\mathrm{BEE}_{16}"], ["BED_{16}"]),
        ("204_5", [r"204_{\text{five}}", r"204 \text{ (base 5)}", r"(204)_5", "204 in base 5"],
         [r"204_{\text{six}}", r"402 \text{ (base 5)}"]),
        ("12:00", ["12:00", r"12{:}00"], ["1:00", "24:00"]),
        ("4:05", [r"4\!:\!05"], ["8:10", "5:04"]),
        ("3:2", ["3 : 2", "6:4", r"3\colon 2"], ["2:3", "3:4"]),
        ("12:30", ["12:30"], ["2:5", "12:31", "6:15"]),
        (r"9\text{ a.m.}", [r"9 \text{ am}", "9 a.m."], [r"9\text{ p.m.}", "10 a.m."]),
    ],
    "words and choices": [
        (r"\text{Monday}", ["Monday", "monday", r"\textbf{Monday}", r"\text{Monday.}"], ["Tuesday", r"\text{Monday and Tuesday}", "1"]),
        ("C", ["(C)", r"\text{(C)}", "C.", "C)", r"\textbf{(C) } 12", r"\text{Option C}", r"\text{Answer: (C)}"],
         ["(B)", "C, D", r"\text{B or C}", r"\textbf{(B) } 12", r"(C) \text{ or } (D)", "(C), (D)", r"\text{(C), 12}", r"\text{C. or D.}"]),
        ("No", ["no", r"\text{No.}", "**No**"], ["yes", "none"]),
        (r"\text{right triangle}", [r"\text{a right triangle}"], [r"\text{triangle}"]),
        ("two lines", [r"\text{two lines}", "Two lines"], ["two circles", "lines", "2"]),
        (r"\text{A, C}", ["A, C", "C, A"], ["A", "A, B, C"]),
        (r"\text{B}", ["B"], [r"\text{A B}", "A, B"]),
        ("5", [r"\text{The answer is } 5", "Answer: $5$"], [r"\text{not } 5", r"\text{The answer is not } 5"]),
    ],
}  # fmt: skip
CASES = [
    pytest.param(gold, answer, expected, id=f"{category}: {gold} | {answer}")
    for category, rows in TRUTHS.items()
    for gold, right, wrong in rows
    for answers, expected in ((right, True), (wrong, False))
    for answer in answers
]


@pytest.mark.parametrize(("gold", "answer", "expected"), CASES)
def test_truths(gold, answer, expected):
    assert check(rf"So it is $\boxed{{{answer}}}$.", gold) is expected


@pytest.mark.parametrize("gold", sorted({case.values[0] for case in CASES}))
@pytest.mark.parametrize("style", [r"\displaystyle GOLD", "{GOLD}", "$GOLD$", r"\(GOLD\)", r"\; GOLD \;", "GOLD.", r"\left. GOLD \right."])
def test_styling_changes_nothing(gold, style):
    assert compare(style.replace("GOLD", gold), gold).right


def test_the_verdict_tells_different_from_undecided():
    assert decide(r"\boxed{4}", "5") == compare("4", "5")
    assert (compare("4", "5").reason, compare("4", "5").decided) == ("different", True)
    assert not compare(r"\text{to the east}", r"\text{east}").decided
    assert not compare(r"\int_0^1 x dx", "0.5").decided
    assert decide("no box", "5").reason == "no answer"


@pytest.mark.parametrize(
    ("answer", "gold", "conventions"),
    [
        ("0.5", r"50\%", "percent"),
        (r"50\%", r"\frac{1}{2}", "percent"),
        (r"\pi", r"180^\circ", "degrees"),
        (r"45^\circ + 180^\circ k, k \in \mathbb{Z}", r"\frac{\pi}{4} + k\pi, k \in \mathbb{Z}", "degrees"),
        (r"5\% \text{ decrease}", r"5\%", "a decrease"),
        ("12:30", r"\frac{2}{5}", "a time of day"),
    ],
)
def test_what_two_conventions_may_mean_is_undecided(answer, gold, conventions):
    verdict = compare(answer, gold)
    assert not verdict.right and not verdict.decided and verdict.reason.startswith(f"undecided: {conventions}")


@pytest.mark.parametrize(
    ("answer", "gold"), [("0.5", "50"), ("5", r"50\%"), (r"\pi", "180"), (r"\frac{\pi}{2}", r"180^\circ"), (r"5\%", "0.5")]
)
def test_what_no_convention_makes_equal_is_wrong(answer, gold):
    assert compare(answer, gold).reason == "different"


def test_importing_the_check_is_light():
    heavy = "import sys, megatron_oreal.verify; sys.exit(any(m in sys.modules for m in ('torch', 'megatron', 'sympy', 'numpy', 'mpmath')))"
    assert subprocess.run([sys.executable, "-c", heavy], timeout=60).returncode == 0
