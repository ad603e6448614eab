"""Ranks that nobody else joins say at once whom they wait for, and why, and do not wait for ever."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_oreal.launcher import Placement, free_port
from megatron_oreal.learn import meeting
from megatron_oreal.learn.meeting import meet

WITHIN_S = 1.5


@pytest.fixture
def left_over(monkeypatch):
    """What another job's launcher had set."""

    def leave(rank: int, port: int, **more) -> Placement:
        monkeypatch.setattr(meeting, "SAY_AFTER_S", 0.2)
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}.items():
            monkeypatch.setenv(name, str(value))
        return Placement.detect()

    return leave


@pytest.mark.parametrize(("rank", "other"), [(0, 1), (1, 0)])
def test_a_rank_to_which_nobody_comes_says_so_and_ends(left_over, capfd, rank, other):
    port = free_port()
    placement = left_over(rank, port)
    with pytest.raises(Exception, match=f"rank {rank} waited in vain for rank {other} at 127.0.0.1:{port}") as caught:
        meet(placement, WITHIN_S)
    variables = f"RANK={rank}, WORLD_SIZE=2, MASTER_ADDR=127.0.0.1, MASTER_PORT={port} are set"
    assert variables in str(caught.value) and "\n" not in str(caught.value)
    said = capfd.readouterr().err  # while it waited
    assert f"rank {rank} waits for rank {other} at 127.0.0.1:{port}" in said and variables in said


def test_a_port_that_is_taken_and_variables_that_cannot_be(left_over, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"^MASTER_PORT={port} cannot be listened at here \\(it is in use\\); export another one$"):
            meet(left_over(0, port), WITHIN_S)
    for rank, world, what in (("2", "2", "RANK=2 must be below WORLD_SIZE=2"), ("x", "2", "RANK=x is set, and no number")):
        with pytest.raises(ValueError, match=what):
            left_over(rank, 1, WORLD_SIZE=world)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(ValueError, match="RANK=x is set, but not WORLD_SIZE"):
        Placement.detect()
    with pytest.raises(ValueError, match="RANK=0, WORLD_SIZE=2 are set, but not MASTER_ADDR"):
        meet(left_over(0, 1, MASTER_ADDR=""), WITHIN_S)


STRANGER = """
import sys
from megatron_oreal.learn.meeting import meet
from megatron_oreal.launcher import Placement

meet(Placement.detect(), float(sys.argv[1]))
"""


def test_a_stranger_that_listens_there_and_says_nothing_is_not_waited_for(left_over):
    """torch's store has no deadline for what it takes for another store."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        left_over(1, silent.getsockname()[1])
        begun = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-c", STRANGER, "1"], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100
        )
    assert ran.returncode == 1 and time.monotonic() - begun < 90
    assert "error (rank 1): rank 1 waited in vain for rank 0" in ran.stderr and "Traceback" not in ran.stderr
