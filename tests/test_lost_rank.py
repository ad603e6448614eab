"""A rank that is killed in any stage ends the whole job, quickly, with its name and stage in one line; the others leave their stacks."""

import os
import signal
import sys
import time

import pytest

from megatron_oreal.engines.engines import EnginesGone
from megatron_oreal.engines.server import Server
from megatron_oreal.launcher import free_port
from megatron_oreal.learn.parallel import _is_lost_peer
from tests.forked import rank_context
from tests.settings import rollout_config

LOST_AFTER_S = 6  # more than a busy machine keeps a thread from its turn
ENDS_WITHIN_S = 60
SOME = [(0, "policy"), (1, "rollout"), (1, "sync")]
OTHERS = [(1, stage) for stage in ("load", "token_rm", "reference", "policy", "evaluate", "checkpoint")]
CASES = [*(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS), *SOME]  # sync last: it leaves the server paused


def rank_main(rank: int, port: int, victim: int, stage: str, overrides: list[str], log: str) -> None:
    """One rank of a run as srun would start it; the victim kills itself in the stage in step 2 (or while loading)."""
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    numbers = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in numbers.items()})

    from megatron_oreal import train
    from megatron_oreal.learn.parallel import Ranks

    entered, enter = [], Ranks.enter

    def enter_and_die(self, name: str) -> None:
        enter(self, name)
        entered.append(name)
        if rank == victim and name == stage and entered.count(stage) == (1 if stage in ("load", "reference", "policy") else 2):
            time.sleep(2.5)  # in the middle of the stage: signs of life come once a second
            os.kill(os.getpid(), signal.SIGKILL)

    Ranks.enter = enter_and_die
    sys.exit(train.main(overrides))


@pytest.fixture(scope="module")
def overrides(served_model, task, tmp_path_factory) -> list[str]:
    """A run of random weights against a running server, so that many runs need no start of a server."""
    folder = tmp_path_factory.mktemp("lost")
    with Server(rollout_config(max_new_tokens=64, max_total_tokens=200), served_model, "float32", folder) as running:
        running.wait_ready()
        key = folder / "key"
        key.write_text(running.endpoint.key)
        yield [
            "experiment=demo",
            "debug=fast",
            f"model.path={served_model}",
            f"data.train={task / 'train.jsonl'}",
            f"eval.data={task / 'heldout.jsonl'}",
            "eval.interval=1",
            "eval.max_new_tokens=8",
            "data.questions_per_step=2",
            "objective.keep=all",
            "checkpoint.interval=1",
            f"parallel.lost_after_s={LOST_AFTER_S}",
            "rollout.placement=external",
            f"rollout.urls=[{running.endpoint.url}]",
            f"rollout.admin_key_file={key}",
            "rollout.max_new_tokens=16",
            "rollout.max_total_tokens=200",
        ]


@pytest.mark.parametrize(("victim", "stage"), CASES)
def test_a_killed_rank_ends_the_job_and_is_named(overrides, tmp_path, victim, stage):
    port = free_port()
    log = tmp_path / "log"
    arguments = [*overrides, f"run_dir={tmp_path / 'run'}", f"parallel={'pp2' if stage == 'sync' else 'dp2'}"]
    context = rank_context()
    ranks = [context.Process(target=rank_main, args=(r, port, victim, stage, arguments, str(log))) for r in range(2)]
    for rank in ranks:
        rank.start()
    ranks[victim].join(120)
    assert ranks[victim].exitcode == -signal.SIGKILL, log.read_text()
    lost_at = time.monotonic()
    survivor = ranks[1 - victim]
    survivor.join(ENDS_WITHIN_S)
    seconds = time.monotonic() - lost_at
    output = log.read_text()
    assert survivor.exitcode == 1, f"exit status {survivor.exitcode} after {seconds:.0f} s\n{output}"
    assert f"error (rank {1 - victim}): lost rank {victim} in stage {stage}: it ended, hangs, or its host is down" in output
    stacks = (tmp_path / "run" / "stacks" / f"rank-{1 - victim:05d}.txt").read_text()
    assert "train.py" in stacks
    assert seconds < ENDS_WITHIN_S


def test_a_connection_with_an_engine_that_broke_is_no_lost_rank():
    """Which of its words an engine's last failure has is chance."""
    assert _is_lost_peer(RuntimeError("[../gloo/transport/tcp/pair.cc] Connection reset by peer"))
    assert not _is_lost_peer(EnginesGone("rollout: no engine is left (http://127.0.0.1:1: Connection reset by peer)"))
    assert not _is_lost_peer(ValueError("config: no"))
