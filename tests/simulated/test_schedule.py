"""Steps of the real conductor against simulated engines take what the plan says of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.simulated.command import Asked, run
from megatron_oreal.simulated.schedule import Result

SMALL = (
    "experiment=oreal_32b",
    "plan.tables=null",
    "plan.gpus=32",
    "rollout.engines=4",
    "data.questions_per_step=16",
    "plan.lengths.median=500",
    "rollout.max_new_tokens=1500",
    "verify.workers=1",
)
CONTINUOUS = ("schedule=continuous", "rollout.in_flight=2")
ASKED = Asked(Path(), SMALL, steps=4, warm_up=6, speed=20.0, slower=1.3)


def test_the_command_prints_a_row_for_each_schedule_and_ends():
    root = Path(__file__).parents[2]
    asked = ["--schedules", "exact", "--steps", "1", "--warm-up", "0", *SMALL, "data.questions_per_step=4"]
    done = subprocess.run(
        [sys.executable, "tools/bench_schedule.py", *asked], cwd=root, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.strip().splitlines()
    assert head.split()[0] == "schedule" and row.split()[0] == "exact" and float(row.split()[1]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [(), CONTINUOUS, (*CONTINUOUS, "rollout.keep_cache=true")])
def test_a_step_takes_what_is_planned(schedule, served_model):
    config = compose([*SMALL, *schedule])
    planned = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False).seconds
    steps = run(replace(ASKED, tokenizer=Path(served_model)), schedule)
    assert all(step.questions == 16 and len(step.lengths) == 16 * 16 for step in steps)
    assert Result.of(steps[ASKED.warm_up :]).seconds == pytest.approx(planned, rel=0.1)
