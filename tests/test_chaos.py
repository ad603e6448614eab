"""A continuous run that is killed at any moment, again and again, and goes on: each drawn question comes to one step, or is still open."""

import random
import time
from pathlib import Path

import msgspec
import pytest

from megatron_oreal.monitor.recorded import FOLDER, read_step
from megatron_oreal.monitor.saved import STATE, list_checkpoints
from megatron_oreal.run_state import RunState
from tests.runs import Run

KILLS, STEPS = 10, 40
SMALL = [
    "schedule=continuous",
    f"steps={STEPS}",
    "checkpoint.interval=1",
    "data.questions_per_step=3",
    "rollout.samples=4",
    "rollout.max_new_tokens=100",
    "objective.keep=all",
    "eval.data=null",
    "record=true",
]


def state_of(run_dir: Path) -> RunState:
    """As it was saved last; of a run that has saved nothing, that of its beginning."""
    found = list_checkpoints(run_dir / "checkpoints")
    return msgspec.json.decode((found[-1] / STATE).read_bytes(), type=RunState) if found else RunState()


def check(run_dir: Path) -> RunState:
    state = state_of(run_dir)
    trained = [group.prompt.id for step in range(1, state.step + 1) for group in read_step(run_dir / FOLDER, step)]
    draws = sorted(int(name.partition("#")[2]) for name in [*trained, *(one.prompt.id for one in state.unfinished)])
    assert draws == list(range(state.drawn)), "lost, or there twice"
    return state


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_it_loses_no_question_and_takes_none_twice(task, tmp_path, record_property):
    chance, run_dir, kept = random.Random(0), tmp_path / "run", 0
    overrides = ["experiment=demo", "debug=fast", f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", *SMALL]
    for _ in range(KILLS):
        begun = state_of(run_dir).step
        run = Run(run_dir, *overrides, *(["resume=auto"] if begun else []))
        run.wait_for(lambda run=run, begun=begun: run.steps_done > begun)
        time.sleep(chance.uniform(0, 2))
        run.kill()
        state = check(run_dir)
        kept += sum(len(t.token_ids) for one in state.unfinished for t in one.trajectories)
    assert 0 < state.step < STEPS, "the test is to kill a run that has not ended"
    record_property("tokens_kept", kept)
    run = Run(run_dir, *overrides, "resume=auto", f"steps={state.step + 2}")
    output = run.finish()
    assert run.process.returncode == 0, output
    assert check(run_dir).step == state.step + 2 and kept > 0
