"""Seconds a step, engines' occupancy, age and the conductor's own CPU under each schedule, against simulated engines.

    python tools/bench_schedule.py [--schedules exact,in_flight_2] [--steps 5] [--speed 20] [overrides]
    python tools/bench_schedule.py --evaluate 256 experiment=oreal_32b eval.interval=1
    python tools/bench_schedule.py --conductor [--times 1,10]

Sixteen engines of the 32B preset where no overrides say otherwise. The conductor, dispatch, verifier and selection are the run's own;
engines answer by the plan's decode times, and training and publication are waits. --conductor has them answer at once, and says what CPU
a step of so many times the questions takes of the conductor. The clock goes no faster than the conductor's CPU time while that works
(simulated/clock.py): with half the --speed the virtual seconds must come out the same.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.operations.sampling import UNEVEN
from megatron_oreal.plan.schedules import age_of
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.simulated.schedule import Result, Schedule, StepFigures, registered
from megatron_oreal.simulated.serve import in_a_process
from megatron_oreal.verify import Verifier

SCHEDULES = ("exact", "in_flight_1.5", "in_flight_2", "in_flight_3", "in_flight_4")
PRESET = ("experiment=oreal_32b",)
AT_ONCE = 1e6
"""Virtual seconds in a real one, where engines are not to be waited for."""
HEAD = ("schedule", "s/step", "sampling", "tokens/s", "running", "prefill", "age", "oldest", "length", "longest", "kept", "CPU s")


@dataclass(frozen=True)
class Asked:
    """Of the command line."""

    tokenizer: Path
    overrides: tuple[str, ...]
    steps: int
    warm_up: int
    speed: float
    slower: float
    evaluated: int = 0


def run(asked: Asked, schedule: Sequence[str]) -> list[StepFigures]:
    """The steps of a schedule, the first ones too."""
    overrides = [*asked.overrides, *schedule]
    config, tokenizer = compose(overrides), load_tokenizer(asked.tokenizer)
    training_s, sync_s = planned_waits(config)
    with (
        in_a_process(asked.tokenizer, asked.speed, asked.slower, overrides) as urls,
        tempfile.TemporaryDirectory() as run_dir,
        registered(config, urls, Path(run_dir)) as engines,
        Verifier(config.verify) as verifier,
        closing(Schedule(config, engines, verifier, tokenizer, training_s, sync_s, asked.evaluated)) as made,
    ):
        return [made.step(number + 1) for number in range(asked.warm_up + asked.steps)]


def planned_waits(config: Planned) -> tuple[float, float]:
    """Seconds of training and of publication."""
    plan = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False)
    seconds = {part.name: part.seconds for part in plan.parts if not part.overlapped}
    return sum(s for name, s in seconds.items() if name not in ("rollout", "sync")), seconds["sync"]


def compare(asked: Asked, names: Sequence[str]) -> None:
    """Print a row for each schedule, as it is there."""
    print(_row(HEAD), flush=True)
    schedules = [overrides_of(name) for name in names]
    for name, schedule in zip(names, schedules, strict=True):
        begun = time.monotonic()
        r = Result.of(run(asked, schedule)[asked.warm_up :])
        figures = (
            f"{r.seconds:.1f}",
            f"{r.sampling_s:.1f}",
            f"{r.tokens_s:,.0f}",
            f"{r.running:.1f}",
            f"{r.prefilling:.1%}",
            f"{r.age:.2f}",
        )
        more = (f"{r.oldest}", f"{r.length:,.0f}", f"{r.longest:.1%}", f"{r.kept:.0%}", f"{r.conductor_s:.2f}")
        print(_row((name, *figures, *more)) + f"   ({time.monotonic() - begun:.0f} s)", flush=True)


def overrides_of(name: str) -> tuple[str, ...]:
    """Of a schedule. Raises SystemExit where there is none of that name."""
    if name == "exact":
        return ()
    kind, _, times = name.rpartition("_")
    try:
        many = float(times)
    except ValueError:
        many = 0.0
    if kind != "in_flight" or many <= 1:
        raise SystemExit(f"bench_schedule: --schedules {name} is neither exact nor in_flight_N with an N above 1, as {SCHEDULES[-1]}")
    return ("schedule=continuous", f"rollout.in_flight={many}", f"rollout.max_age={age_of(many)}")


def _row(cells: Sequence[str]) -> str:
    return f"{cells[0]:<16}" + "".join(f"{cell:>10}" for cell in cells[1:])


def conductor(asked: Asked, times: Sequence[int]) -> None:
    """Print the conductor's CPU of a step of so many times the questions."""
    at_once = replace(asked, speed=AT_ONCE, steps=1, warm_up=1)
    questions = compose(asked.overrides).data.questions_per_step
    for many in times:
        step = run(at_once, [f"data.questions_per_step={many * questions}", f"rollout.concurrency={many * questions}"])[-1]
        tokens = sum(step.lengths)
        each = f"{1e6 * step.conductor_s / tokens:.2f} a million tokens"
        print(f"{len(step.lengths):,} trajectories, {tokens / 1e6:.2f} million tokens: {step.conductor_s:.2f} s of CPU, {each}", flush=True)


def main(tokenizer: Path) -> None:
    """Entry point. `tokenizer`: of questions and answers, a Hugging Face folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--schedules", default=",".join(SCHEDULES), metavar="NAME,NAME,...", help="default: %(default)s; any in_flight_N")
    parser.add_argument("--steps", type=int, default=6, help="measured")
    parser.add_argument("--warm-up", type=int, default=6, help="steps before those, of which a run takes some to come to its pace")
    parser.add_argument("--speed", type=float, default=20.0, help="virtual seconds in a real one, while the conductor has nothing to do")
    parser.add_argument("--slower", type=float, default=UNEVEN, help="engines than the operations of a step added up")
    parser.add_argument("--evaluate", type=int, default=0, metavar="N", help="questions of an evaluation after every eval.interval steps")
    parser.add_argument("--conductor", action="store_true", help="the conductor's CPU alone")
    parser.add_argument("--times", default="1,10", metavar="N,N,...", help="the questions of a step, for --conductor")
    parser.add_argument("overrides", nargs="*", help="as of megatron-oreal plan")
    a = parser.parse_intermixed_args()
    asked = Asked(tokenizer, tuple(a.overrides) or PRESET, a.steps, a.warm_up, a.speed, a.slower, a.evaluate)
    if a.conductor:
        conductor(asked, [int(many) for many in a.times.split(",")])
    else:
        compare(asked, a.schedules.split(","))
