"""Measure the rule check beside Math-Verify on labelled cases, and the pool on long responses.

    python tools/bench_verifier.py                     all case files at hand, one table: a row for each file and check
    python tools/bench_verifier.py --cases FILE ...    these; --by-category: a row for each category; --wrong 5: wrong verdicts of ours
    python tools/bench_verifier.py --pool              a pool of workers on long responses as well

At hand are cases_*.jsonl in shared/verifier beside the checkout, the files named wild first (in the styles in which answers are found),
and the tables of tests/verify/wild, which were written with the rules. A case is a line with `prediction`, `gold` and
`expected`, and `category` where there are several; `form: bare` puts the prediction in a box; lines with `debatable: true` are left out.
Both checks are given the response and the gold answer, Math-Verify the gold answer in a box. Intervals are Wilson's, of 95 %. Times are
processor time of one process and one case, without the pool and without its cache.
"""

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_oreal.config import load  # noqa: E402
from megatron_oreal.evaluation.statistics import wilson  # noqa: E402
from megatron_oreal.trajectory import Prompt, Trajectory  # noqa: E402
from megatron_oreal.verify import Verifier, VerifyConfig, check  # noqa: E402

SHARED = ROOT.parent / "shared" / "verifier"
TABLES = ROOT / "tests" / "verify" / "wild"
HEAD = f"{'cases':>6} {'acc %':>7} {'95 % interval':>16} {'FN':>4} {'FP':>4} {'p50 ms':>8} {'p99 ms':>8} {'worst ms':>9}"


@dataclass(frozen=True)
class Settings:
    """Of the pool, as conf/verify has them."""

    verify: VerifyConfig


@dataclass(frozen=True)
class Case:
    response: str
    gold: str
    expected: bool
    category: str


@dataclass(frozen=True)
class Outcome:
    case: Case
    said: bool
    seconds: float


@dataclass(frozen=True)
class Score:
    """Of one check on some cases: accuracy in percent, times in milliseconds."""

    cases: int
    false_negatives: int
    false_positives: int
    p50_ms: float
    p99_ms: float
    worst_ms: float

    @classmethod
    def of(cls, outcomes: list[Outcome]) -> "Score":
        """Counts and percentiles of at least one outcome."""
        milliseconds = sorted(1e3 * outcome.seconds for outcome in outcomes)
        missed = sum(outcome.case.expected and not outcome.said for outcome in outcomes)
        wrong = sum(outcome.said and not outcome.case.expected for outcome in outcomes)
        p50, p99 = milliseconds[len(outcomes) // 2], milliseconds[int(0.99 * len(outcomes))]
        return cls(len(outcomes), missed, wrong, p50, p99, milliseconds[-1])

    @property
    def accuracy(self) -> float:
        return 100 * (1 - (self.false_negatives + self.false_positives) / self.cases)

    def row(self) -> str:
        share = wilson(self.accuracy / 100, self.cases)
        interval = f"{100 * share.low:6.2f} to {100 * share.high:6.2f}"
        times = f"{self.p50_ms:8.2f} {self.p99_ms:8.2f} {self.worst_ms:9.1f}"
        return f"{self.cases:6} {self.accuracy:7.2f} {interval:>16} {self.false_negatives:4} {self.false_positives:4} {times}"


def at_hand() -> list[Path]:
    """Case files beside the checkout, the wild ones first, and the tests' tables."""
    files = sorted(SHARED.glob("cases_*.jsonl"), key=lambda path: ("wild" not in path.stem, path.stem))
    return [*files, TABLES] if TABLES.is_dir() else files


def read_table(path: Path) -> list[Case]:
    """Gold answers (=), what is right (+) and what is not (-), of a table of tests/verify/wild; in boxes.txt whole responses."""
    cases, gold = [], ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        mark, text = line[:1], line[2:]
        if mark == "=":
            gold = text
        elif mark in ("+", "-"):
            response = text if path.stem == "boxes" else rf"So the answer is $\boxed{{{text}}}$."
            cases.append(Case(response, gold, mark == "+", path.stem))
        elif line and mark != "#":
            raise ValueError(f"{path}:{number}: a line begins with =, +, - or #")
    return cases


def read_cases(path: Path) -> list[Case]:
    """The labelled cases of a JSONL file, or of a folder of tables; a ValueError names file, line and field of a broken one."""
    if path.is_dir():
        return [case for table in sorted(path.glob("*.txt")) for case in read_table(table)]
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            case = json.loads(line)
            if not case.get("debatable"):
                response = rf"\boxed{{{case['prediction']}}}" if case.get("form") == "bare" else case["prediction"]
                cases.append(Case(response, case["gold"], bool(case["expected"]), case.get("category", path.stem)))
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
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it prints every answer that it gives up on
    context = PSParser.AtomContext
    if not hasattr(context, "FUNC_GAMMA"):  # its parsers for antlr 4.9.3 lack this one rule, and raise without it
        context.FUNC_GAMMA = lambda self: None
    return lambda response, gold: bool(verify(parse(rf"\boxed{{{gold}}}"), parse(response)))


def run(function, cases: list[Case]) -> list[Outcome]:
    """Every case through a check; an exception counts as "not right"."""
    function(r"\boxed{\sqrt{8}}", r"2\sqrt{2}")  # loads what is loaded at first need
    outcomes = []
    for case in cases:
        started = time.process_time()  # what others do on the machine is not counted
        try:
            said = function(case.response, case.gold)
        except Exception:
            said = False
        outcomes.append(Outcome(case, said, time.process_time() - started))
    return outcomes


def print_rows(name: str, checks: dict[str, list[Outcome]]) -> None:
    """A row for each check."""
    for check_name, outcomes in checks.items():
        print(f"{name:34} {check_name:13} {Score.of(outcomes).row()}", flush=True)


def print_categories(checks: dict[str, list[Outcome]]) -> None:
    """Rows for each category."""
    for category in sorted({outcome.case.category for outcomes in checks.values() for outcome in outcomes}):
        print_rows(category, {name: [o for o in outcomes if o.case.category == category] for name, outcomes in checks.items()})


def print_wrong(outcomes: list[Outcome], limit: int) -> None:
    """The first wrong verdicts of a check."""
    for outcome in [o for o in outcomes if o.said != o.case.expected][:limit]:
        print(
            f"{outcome.case.category}: said {outcome.said}, gold {outcome.case.gold[:80]!r}, response ends {outcome.case.response[-100:]!r}"
        )


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
    with Verifier(load(Settings, "verify/rule", [f"verify.workers={workers}"]).verify) as verifier:
        warm = Prompt("warm", "", "5", [1])
        verifier.verify([Trajectory(warm, i, [1], [0.0], rf"\boxed{{{i}+0}}", "stop", 0) for i in range(4 * workers)], 4 * workers)
        ready = time.perf_counter()
        verifier.verify(iter(trajectories), samples=16)
        return ready - started, time.perf_counter() - ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", type=Path, help="default: all files at hand")
    parser.add_argument("--by-category", action="store_true", help="a row for each category of each file")
    parser.add_argument("--wrong", type=int, default=0, help="print this many wrong verdicts of this project, of each file")
    parser.add_argument("--pool", action="store_true", help="time a pool of workers as well")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--responses", type=int, default=1024, help="a multiple of 16")
    parser.add_argument("--chars", type=int, default=30_000)
    args = parser.parse_args()
    if args.responses % 16:
        parser.error(f"--responses is {args.responses}; a multiple of 16 is needed")
    files, other = args.cases or at_hand(), math_verify()
    if not files:
        parser.error(f"no cases_*.jsonl in {SHARED}, and no {TABLES}: name files with --cases")
    checks = {"this project": check} | ({"Math-Verify": other} if other else {})
    print(f"{'':34} {'':13} {HEAD}")
    cases: list[Case] = []
    for path in files:
        some = read_cases(path)
        outcomes = {name: run(function, some) for name, function in checks.items()}
        print_rows(path.stem.removeprefix("cases_") if path.is_file() else "own tables", outcomes)
        if args.by_category:
            print_categories(outcomes)
        print_wrong(outcomes["this project"], args.wrong)
        cases.extend(some)
    if not other:
        print("Math-Verify is not installed: pip install 'megatron-oreal[bench]'")
    if args.pool:
        print_pool(args.workers, long_trajectories(args.responses, args.chars, cases), args.chars)


def print_pool(workers: int, trajectories: list[Trajectory], chars: int) -> None:
    start, seconds = time_pool(workers, trajectories)
    print(
        f"pool: {len(trajectories)} responses of {chars} characters, {workers} workers, {os.cpu_count()} cores:"
        f" {seconds:.2f} s (start to first verdicts {start:.2f} s)"
    )


if __name__ == "__main__":
    main()
