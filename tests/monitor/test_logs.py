"""Where the output of a job's ranks goes, in processes of their own: what C and Python write, and what fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANK = """
import ctypes, logging, os, sys, types, warnings
from megatron_oreal.train import COMMAND, run_command

def chatter(config):
    os.write(2, b"said by C\\n")
    print("said by Python")
    for _ in range(2):
        for place in range(2):
            exec(f"warnings.warn('be careful')", {{"__name__": f"library{{place}}", "warnings": warnings}})
        logging.getLogger("library").warning("a word of warning")
        logging.getLogger("library").error("an error of the library")
    {end}

config = types.SimpleNamespace(run_dir={run_dir!r}, parallel=None)
sys.exit(run_command(COMMAND, chatter, [], compose=lambda overrides: config))
"""
CHATTER = ("said by C", "said by Python", "UserWarning: be careful", "a word of warning", "an error of the library")


def run(rank: int, run_dir: Path, end: str = "") -> subprocess.CompletedProcess:
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-c", RANK.format(end=end, run_dir=str(run_dir))]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


def test_rank_0_speaks_and_the_others_write_to_files(tmp_path):
    first, second = run(0, tmp_path), run(1, tmp_path)
    assert (first.returncode, second.returncode, second.stdout) == (0, 0, "")
    assert [first.stdout.count(words) for words in CHATTER] == [1, 1, 1, 1, 2]  # a warning once, errors each time
    log = (tmp_path / "logs" / "rank-00001.log").read_text()
    assert [log.count(words) for words in CHATTER] == [1, 1, 1, 1, 2]
    assert not (tmp_path / "logs" / "rank-00000.log").exists()
    run(1, tmp_path)
    assert (tmp_path / "logs" / "rank-00001.log").read_text() == log * 2  # a run that goes on loses nothing


@pytest.mark.parametrize(
    ("end", "status", "line"),
    [
        ("from megatron_oreal.errors import LostPeer; raise LostPeer('lost another rank')", 1, "error (rank 1): lost another rank\n"),
        ("raise KeyboardInterrupt", 130, "error (rank 1): interrupted\n"),
        ("print('error (rank 1): lost rank 0', file=sys.__stderr__, flush=True); os._exit(1)", 1, "error (rank 1): lost rank 0\n"),
    ],
)
def test_the_last_word_of_a_failing_rank_reaches_the_terminal(tmp_path, end, status, line):
    done = run(1, tmp_path, end)
    assert (done.returncode, done.stdout) == (status, line)


def test_an_unforeseen_error_is_on_the_terminal_and_in_the_log(tmp_path):
    done = run(1, tmp_path, "1 / 0")
    assert done.returncode == 1
    for text in (done.stdout, (tmp_path / "logs" / "rank-00001.log").read_text()):
        assert text.count("ZeroDivisionError: division by zero") == 1 and "in chatter" in text


def test_a_log_that_cannot_be_written_is_said_at_the_start(tmp_path):
    (tmp_path / "logs").write_text("a file")
    done = run(1, tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("error (rank 1): run_dir: the log of rank 1 cannot be written: ") and done.stdout.count("\n") == 1
