"""All that saves memory at once, and what may happen between sleep and wake: the numbers are those of a run in which nothing is saved.

Two ranks and an engine of a demo, as people start them. Each rank does what is to happen when it enters a stage of a step.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from megatron_oreal.engines.registry import read_registry, registry_folder
from megatron_oreal.launcher import free_port
from tests.forked import rank_context
from tests.runs import RUN_DEADLINE_S, Run, metrics_of
from tests.settings import process_group_of

MOMENTS = ("token_rm", "optimizer", "reference", "policy", "sync", "evaluate", "checkpoint")
"""One in each step, in the order of a step: asleep before, in and between the turns of models; with weights under way; awake; saved."""
STEPS = len(MOMENTS)
DEMO = [  # keep=all, because a model with random weights is never right and would have nothing to train on
    "experiment=demo",
    "debug=fast",
    f"steps={STEPS}",
    "policy.freeze_steps=0",
    "data.questions_per_step=3",
    "rollout.max_new_tokens=24",
    "rollout.deterministic=true",
    "rollout.concurrency=1",
    "rollout.health_interval_s=0.5",
    "rollout.lost_after_s=8",
    "objective.keep=all",
    "eval.interval=1",
    "eval.max_new_tokens=8",
    "checkpoint.interval=1",
]
EVERYTHING = [
    "compute.offload=all",
    "compute.recompute=full",
    "rollout.release_memory=true",
    "policy.optimizer.on_host=true",
    "token_rm.optimizer.on_host=true",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(task) -> list[str]:
    return [*DEMO, f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"eval.data={task / 'heldout.jsonl'}"]


@pytest.fixture(scope="module")
def plain(demo, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("plain"), *demo)
    output = run.finish()
    assert run.process.returncode == 0 and sorted(run.metrics()) == list(range(STEPS + 1)), output
    return run


def learnt(run: Run) -> dict[int, dict]:
    """Of each step; the engines' own figures, left out, tell of engines that were lost."""
    names = ("loss/", "grad_norm/", "lr/", "reward/", "eval/heldout", "select/")
    return {step: {name: value for name, value in row.items() if name.startswith(names)} for step, row in run.metrics().items()}


def is_the_same(run: Run, plain: Run) -> None:
    """Bit for bit."""
    expected, weights = learnt(plain), run.weights()
    assert learnt(run) == expected and expected[STEPS]["loss/kl"] > 0
    assert all((tensor == weights[name]).all() for name, tensor in plain.weights().items())


def test_a_run_with_everything_that_saves_memory_gives_the_numbers_of_one_with_nothing(plain, demo, tmp_path):
    run = Run(tmp_path, *demo, *EVERYTHING)
    output = run.finish()
    assert run.process.returncode == 0, output
    is_the_same(run, plain)


def rank_main(rank: int, port: int, happens: dict[int, str], what: str, overrides: list[str], run_dir: str) -> None:
    """One rank of a run as srun would start it; `what` happens in the stage of a step that `happens` says."""
    for descriptor in (1, 2):
        os.dup2(os.open(f"{run_dir}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    numbers = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()})

    from megatron_oreal import train
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.progress import Progress

    now, enter, steps = [0], Ranks.enter, Progress.steps

    def counted(self):
        for now[0] in steps(self):
            yield now[0]

    def enter_and_act(self, name: str) -> None:
        enter(self, name)
        if happens.get(now[0]) == name:
            del happens[now[0]]
            act(what, rank, Path(run_dir), waits=now[0] == STEPS)

    Ranks.enter, Progress.steps = enter_and_act, counted
    sys.exit(train.main(overrides))


def act(what: str, rank: int, run_dir: Path, waits: bool) -> None:
    """`waits`: until a lost engine is started again, for the run may end before its supervisor looks."""
    if what == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif rank == 0:
        (engine,) = read_registry(registry_folder(run_dir)).values()
        os.killpg(process_group_of(engine.endpoint), signal.SIGKILL)
        deadline = time.monotonic() + RUN_DEADLINE_S
        while waits and read_registry(registry_folder(run_dir))[engine.number].start == engine.start:
            assert time.monotonic() < deadline, "the engine was not started again"
            time.sleep(0.1)


def leg(happens: dict[int, str], what: str, overrides: list[str], run_dir: Path) -> str:
    """One start of the run, to its end or to where it was stopped; what it said."""
    (run_dir / "log").unlink(missing_ok=True)
    context, port = rank_context(), free_port()
    given = [*overrides, *EVERYTHING, f"run_dir={run_dir}", "resume=auto"]
    ranks = [context.Process(target=rank_main, args=(rank, port, happens, what, given, str(run_dir))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(RUN_DEADLINE_S)
    output = (run_dir / "log").read_text()
    assert [rank.exitcode for rank in ranks] == [0, 0], output
    return output


class Ended(Run):
    """A run that this process did not start."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def metrics(self) -> dict[int, dict]:
        """An evaluation that was cut short is made when the run goes on, and has a row of its own."""
        merged: dict[int, dict] = {}
        for row in metrics_of(self.run_dir):
            merged.setdefault(row["step"], {}).update(row)
        return merged


def test_an_engine_that_is_lost_at_any_moment_is_back_with_the_weights(plain, demo, tmp_path):
    leg(dict(enumerate(MOMENTS, start=1)), "lose the engine", demo, tmp_path)
    (engine,) = read_registry(registry_folder(tmp_path)).values()
    assert engine.start == STEPS
    is_the_same(Ended(tmp_path), plain)


def test_a_run_that_is_asked_to_stop_at_any_moment_goes_on_from_there(plain, demo, tmp_path):
    for step, moment in enumerate(MOMENTS, start=1):
        output = leg({step: moment}, "stop", demo, tmp_path)
        assert f"stopped after step {step}" in output or step == STEPS, (moment, output)
    leg({}, "stop", demo, tmp_path)
    is_the_same(Ended(tmp_path), plain)
