"""Measure the rule check beside Math-Verify on labelled cases, and the pool on long responses.

    python tools/bench_verifier.py --cases FILE.jsonl ... [--workers 2] [--responses 1024] [--chars 30000]

A case is a line with `prediction`, `gold` and `expected`; lines with `debatable: true` are left out. Both are given
the response and the gold answer, Math-Verify the gold answer in a box. Times are of one process and one case.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_oreal.trajectory import Prompt, Trajectory  # noqa: E402
from megatron_oreal.verify import Verifier, VerifyConfig, check  # noqa: E402


@dataclass(frozen=True)
class Case:
    response: str
    gold: str
    expected: bool


@dataclass(frozen=True)
class Score:
    name: str
    cases: int
    accuracy: float  # percent
    false_negatives: int
    false_positives: int
    p50_ms: float
    p99_ms: float
    worst_ms: float

    def row(self) -> str:
        times = f"{self.p50_ms:9.2f} {self.p99_ms:9.2f} {self.worst_ms:9.1f}"
        return f"{self.name:12} {self.cases:6} {self.accuracy:9.2f} {self.false_negatives:6} {self.false_positives:6} {times}"


def read_cases(paths: list[Path]) -> list[Case]:
    """The labelled cases of JSONL files; a ValueError names file, line and field of a broken one."""
    cases = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                case = json.loads(line)
                if not case.get("debatable"):
                    cases.append(Case(case["prediction"], case["gold"], bool(case["expected"])))
            except (json.JSONDecodeError, KeyError) as error:
                raise ValueError(f"{path}:{number}: {error!r}; lines need prediction, gold and expected") from None
    return cases


def math_verify():
    """Math-Verify as a function of response and gold, or None where it is not installed."""
    try:
        from latex2sympy2_extended.antlr_parser import PSParser
        from math_verify import parse, verify
    except ImportError:
        return None
    context = PSParser.AtomContext
    if not hasattr(context, "FUNC_GAMMA"):  # its parsers for antlr 4.9.3 lack this one rule, and raise without it
        context.FUNC_GAMMA = lambda self: None
    return lambda response, gold: bool(verify(parse(rf"\boxed{{{gold}}}"), parse(response)))


def score(name: str, function, cases: list[Case]) -> Score:
    """Run a check over the cases; an exception counts as "not right"."""
    function(r"\boxed{\sqrt{8}}", r"2\sqrt{2}")  # loads what is loaded at first need
    seconds, missed, wrong = [], 0, 0
    for case in cases:
        started = time.perf_counter()
        try:
            said = function(case.response, case.gold)
        except Exception:
            said = False
        seconds.append(time.perf_counter() - started)
        missed += case.expected and not said
        wrong += said and not case.expected
    seconds.sort()
    p50, p99 = seconds[len(seconds) // 2], seconds[int(0.99 * len(seconds))]
    accuracy = 100 * (len(cases) - missed - wrong) / len(cases)
    return Score(name, len(cases), accuracy, missed, wrong, 1e3 * p50, 1e3 * p99, 1e3 * seconds[-1])


def long_trajectories(count: int, chars: int, cases: list[Case]) -> list[Trajectory]:
    """Responses of `chars` characters that end with the responses of the cases, 16 to a prompt."""
    filler = r"We have $x_{1} = \frac{1}{2}$ and $\{a, b\}$, hence \[ \sqrt{x^{2} + 1} \le 3. \] " * (chars // 80 + 1)
    trajectories = []
    for number in range(count):
        case = cases[number * 7 % len(cases)]
        prompt = Prompt(str(number // 16), "", case.gold, [1])
        text = filler[: max(0, chars - len(case.response))] + "\n" + case.response
        trajectories.append(Trajectory(prompt, number % 16, [1], [0.0], text, "stop", 0))
    return trajectories


def time_pool(workers: int, trajectories: list[Trajectory]) -> tuple[float, float]:
    """Seconds to start the pool and its first verdict, and seconds for all trajectories."""
    started = time.perf_counter()
    with Verifier(VerifyConfig(workers=workers)) as verifier:
        warm = Prompt("warm", "", "5", [1])
        verifier.verify([Trajectory(warm, i, [1], [0.0], rf"\boxed{{{i}+0}}", "stop", 0) for i in range(4 * workers)], 4 * workers)
        ready = time.perf_counter()
        verifier.verify(iter(trajectories), samples=16)
        return ready - started, time.perf_counter() - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--responses", type=int, default=1024, help="a multiple of 16")
    parser.add_argument("--chars", type=int, default=30_000)
    args = parser.parse_args()
    if args.responses % 16:
        parser.error(f"--responses is {args.responses}; a multiple of 16 is needed")
    cases = read_cases(args.cases)

    print(f"{'check':12} {'cases':>6} {'acc %':>9} {'FN':>6} {'FP':>6} {'p50 ms':>9} {'p99 ms':>9} {'worst ms':>9}")
    print(score("this project", check, cases).row(), flush=True)
    other = math_verify()
    print(score("Math-Verify", other, cases).row() if other else "Math-Verify is not installed")
    start, seconds = time_pool(args.workers, long_trajectories(args.responses, args.chars, cases))
    print(
        f"pool: {args.responses} responses of {args.chars} characters, {args.workers} workers, {os.cpu_count()} cores:"
        f" {seconds:.2f} s (start to first verdicts {start:.2f} s)"
    )


if __name__ == "__main__":
    main()
