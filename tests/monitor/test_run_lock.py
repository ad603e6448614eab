"""Who is alone in a folder: processes that work there, die there, and are on a host that we cannot see."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from megatron_oreal.errors import NotWritten
from megatron_oreal.monitor import run_lock
from megatron_oreal.monitor.run_lock import NAME, alone, refuse_where_at_work

DEADLINE_S = 120  # of a process that takes a second on a machine with nothing else to do
RUN = "run_dir=x"
WORKS = """
import sys, time
from pathlib import Path
from megatron_oreal.monitor import run_lock
run_lock.BEAT_S = 0.2
with run_lock.alone("run_dir=x", Path(sys.argv[1]) / run_lock.NAME):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def worker(tmp_path):
    """A process that works in a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKS, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_S", 0.2)
    monkeypatch.setattr(run_lock, "SILENT_S", 2.0)
    monkeypatch.setattr(run_lock, "SETTLES_S", 0.2)


def seen_from_elsewhere(monkeypatch):
    monkeypatch.setattr(run_lock, "_place", lambda: "another host")


def test_a_folder_at_work_is_refused_with_its_holder_and_free_when_that_ends(tmp_path, worker):
    with (
        pytest.raises(ValueError, match=rf"^run_dir=x is at work: process {worker.pid} on \S+ since 20\S+;"),
        alone(RUN, tmp_path / "run" / NAME),
    ):
        pass
    worker.send_signal(signal.SIGINT)
    worker.wait(DEADLINE_S)
    assert list((tmp_path / "run").iterdir()) == []
    with alone(RUN, tmp_path / "run" / NAME):
        assert json.loads((tmp_path / "run" / NAME).read_text())["process"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_crash_left_on_this_host_is_taken_at_once(tmp_path, worker):
    worker.send_signal(signal.SIGKILL)  # and nobody has asked for its status yet
    started = time.monotonic()
    while run_lock._read(tmp_path / "run" / NAME).is_alive_here:
        time.sleep(0.05)
    with alone(RUN, tmp_path / "run" / NAME):
        assert time.monotonic() - started < 10


def test_a_holder_on_another_host_is_heard_while_it_lives_and_not_after(tmp_path, worker, quick, monkeypatch):
    seen_from_elsewhere(monkeypatch)
    said = []
    with pytest.raises(ValueError, match="is at work"), alone(RUN, tmp_path / "run" / NAME, said.append):
        pass
    worker.kill()
    started = time.monotonic()
    with alone(RUN, tmp_path / "run" / NAME, said.append):
        assert time.monotonic() - started >= 2
    assert re.fullmatch(rf"run_dir=x was left by process {worker.pid} on \S+ since \S+, which is not of this host: 2 s .*", said[-1])


def test_a_holder_that_was_stopped_for_long_and_robbed_ends(tmp_path, worker, quick, monkeypatch):
    seen_from_elsewhere(monkeypatch)
    worker.send_signal(signal.SIGSTOP)
    with alone(RUN, tmp_path / "run" / NAME, lambda line: None):
        worker.send_signal(signal.SIGCONT)
        assert worker.wait(DEADLINE_S) != 0
        assert "was taken over by process" in worker.stderr.read()
        assert json.loads((tmp_path / "run" / NAME).read_text())["process"] == os.getpid()


def test_a_file_that_nobody_finished_writing_is_taken_over(tmp_path, quick):
    (tmp_path / NAME).write_text('{"host": "a')
    with alone(RUN, tmp_path / NAME):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(NotWritten, match=r"run_dir=x cannot be written to \(NotADirectoryError"),
        alone(RUN, tmp_path / "file" / "run" / NAME),
    ):
        pass


def test_a_place_that_cannot_be_written_to_is_a_line_before_anything_is_started(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="^run_dir=x cannot be written to: .*file is no folder$"):
        refuse_where_at_work(RUN, tmp_path / "file" / "run" / NAME)
    refuse_where_at_work(RUN, tmp_path / "new" / "run" / NAME)
    assert not (tmp_path / "new").exists()
