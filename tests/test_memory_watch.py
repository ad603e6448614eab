"""A run that is killed for memory says so, and who held it."""

import os
import re
import subprocess
import sys
import time

import pytest

from megatron_oreal.memory_watch import MemoryWatch

CHILD = "held = bytearray(b'x') * 200_000_000; print(1, flush=True); input()"
PARENT = f"""
import subprocess, sys
held = bytearray(b'x') * 300_000_000
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
input()
"""


@pytest.fixture
def process():
    """Holds 0.3 GB, and has started one that holds 0.2 GB."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline()
        yield running
        running.kill()


def test_it_says_who_held_how_much(process, tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 2\n")
    watch = MemoryWatch((tmp_path / "not there", counter))
    watch.look({"rank 0": process.pid, "rank 1": os.getpid()})
    assert watch.blame() == ""  # whoever killed it, it was not for memory
    counter.write_text("low 0\noom 4\noom_kill 3\n")
    said = re.fullmatch(r": memory ran out \(rank 0 0\.3 GB, rank 1 [0-9.]+ GB, engines and verifiers ([0-9.]+) GB of .*\)", watch.blame())
    assert said and float(said[1]) >= 0.2


def test_one_that_is_gone_is_no_longer_seen_but_what_was_seen_is_kept(process, tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_oreal.memory_watch.LOOK_EVERY_S", 0.0)
    (tmp_path / "vmstat").write_text("oom_kill 0\n")
    watch = MemoryWatch((tmp_path / "vmstat",))
    watch.look({"rank 0": process.pid})
    process.kill()
    process.wait()
    time.sleep(0.1)
    watch.look({"rank 0": process.pid})
    (tmp_path / "vmstat").write_text("oom_kill 1\n")
    assert "rank 0 0.3 GB" in watch.blame()
