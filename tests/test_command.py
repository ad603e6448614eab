"""What ends a command without a traceback."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_oreal.command import guarded
from megatron_oreal.engines.registry import write_privately


def test_a_full_disk_is_a_line_with_the_place_and_a_fault_of_ours_is_not(capsys, monkeypatch):
    monkeypatch.setattr(os, "open", lambda path, flags, mode, open=os.open: open("/dev/full", os.O_WRONLY))
    assert guarded(lambda: write_privately(Path("engines/pulse"), b"1")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No space left on device: ") and "megatron_oreal/engines/registry.py:" in said and said.count("\n") == 1
    with pytest.raises(FileNotFoundError):
        guarded(lambda: Path("/nowhere").read_text())


@pytest.mark.parametrize(("most", "taken"), [(300, 300), (100, None), (4096, 4096)])
def test_as_many_open_files_as_are_allowed(most, taken):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and allowed < most:
        pytest.skip(f"only {allowed} open files are allowed here")
    script = "import resource; from megatron_oreal import machine; machine.take_all_open_files(); print(resource.getrlimit(7)[0])"
    limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))  # noqa: E731
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=limits, timeout=60)
    assert done.stdout.strip() == str(taken) if taken else "100 files here, and 256 are needed" in done.stderr
