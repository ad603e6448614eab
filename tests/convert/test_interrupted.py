"""Conversions of some seconds, watched and disturbed: what is interrupted leaves nothing under its name, and can be run again."""

import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_oreal import launcher
from megatron_oreal.convert.command import watched
from tests.convert.test_round_trip import ROOT, assert_same_bits, change_config, tensors, to_hf, to_megatron

DEADLINE_S = 120
CONVERSIONS = {
    "hf-to-megatron": (lambda hf, megatron: ["--hf", hf, "--tp", "2"], "release/*.distcp"),
    "megatron-to-hf": (lambda hf, megatron: ["--megatron", megatron], "*.safetensors"),
}


@pytest.fixture(scope="module")
def large(tiny_model, tmp_path_factory) -> Path:
    """A model that takes seconds to convert: 300 MB, of which most is vocabulary."""
    folder = tmp_path_factory.mktemp("large")
    shutil.copytree(tiny_model(), folder, dirs_exist_ok=True)
    content = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        content[name] = torch.rand(1_200_000, 32)
    save_file(content, folder / "model.safetensors")
    change_config(folder, vocab_size=1_200_000)
    return folder


@pytest.fixture(scope="module")
def large_megatron(large, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large") / "megatron"
    assert to_megatron(large, folder) == 0
    return folder


def start(direction: str, large: Path, megatron: Path | None, out: Path, *more: str, **options) -> subprocess.Popen:
    arguments, _ = CONVERSIONS[direction]
    command = [direction, *arguments(large, megatron), "--out", out, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)}  # whoever runs the tests may be under nohup
    return launcher.start_module("megatron_oreal.convert.command", [str(c) for c in command], cwd=ROOT, **(pipes | heard | options))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("direction", "kill"),
    [("hf-to-megatron", s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGKILL)]
    + [("megatron-to-hf", signal.SIGINT)],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_interrupted_conversion_leaves_nothing_and_can_be_run_again(large, large_megatron, tmp_path, direction, kill):
    out, partial, files = tmp_path / "out", tmp_path / ".out.partial", CONVERSIONS[direction][1]
    process = start(direction, large, large_megatron, out)
    wait_until(lambda: any(file.stat().st_size > 10**6 for file in partial.glob(files)), process)
    process.send_signal(kill)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert not out.exists()
    if kill == signal.SIGKILL:
        assert partial.exists()  # nobody could clean up; the next conversion does
    else:
        assert process.returncode == 130
        assert error == f"error: interrupted; nothing is left of {out}\n"
        assert not partial.exists()
    if direction == "hf-to-megatron":
        assert to_megatron(large, out, tp=2) == 0
        out, megatron = tmp_path / "back", out
    else:
        megatron = large_megatron
    assert to_hf(megatron, out) == 0
    assert not partial.exists()
    assert_same_bits(tensors(large), tensors(out))


def test_an_interrupted_comparison_says_that_the_folder_is_there(large, tmp_path):
    out = tmp_path / "out"
    process = start("hf-to-megatron", large, None, out, "--verify")
    wait_until(out.exists, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert error == f"error: interrupted; {out} is there, but was not compared\n"
    assert to_megatron(large, out, "--verify") == 0


def test_an_interrupt_after_the_last_tensor_counts(tmp_path):
    """Files are still being closed then. A signal that was ignored before, as under nohup, stays ignored."""
    job, before = SimpleNamespace(nbytes=1, specs={}), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with watched("converted", job, tmp_path):
            os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt), watched("converted", job, tmp_path):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("direction", CONVERSIONS)
def test_a_write_that_fails_is_one_line_and_leaves_nothing(large, large_megatron, tmp_path, direction):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))

    process = start(direction, large, large_megatron, tmp_path / "out", preexec_fn=small_files)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert error.startswith("error: convert: [Errno 27] File too large")
    assert error.endswith(f"; nothing is left of {tmp_path / 'out'}\n")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_do_not_mix(large, tmp_path, capsys):
    process = start("hf-to-megatron", large, None, tmp_path / "out")
    wait_until((tmp_path / ".out.partial" / "release").exists, process)
    os.kill(process.pid, signal.SIGSTOP)
    assert to_megatron(large, tmp_path / "out", tp=2) == 2
    assert "another process is writing" in capsys.readouterr().err
    os.kill(process.pid, signal.SIGCONT)
    _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, error
    assert to_megatron(large, tmp_path / "out", "--verify") == 0


def test_a_terminal_shows_how_far_it_is(large, tmp_path):
    ours, its = pty.openpty()
    terminal = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = start("hf-to-megatron", large, None, tmp_path / "out", stdout=its, stderr=its, env=terminal)
    os.close(its)
    shown = b""
    with suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert process.wait(DEADLINE_S) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"converted .*\d+(\.\d+)?/307\.\d MB \d+(\.\d+)? MB/s \d:\d\d:\d\d", text), text
    assert re.search(r"converted 51 tensors, 0\.31 GB in [\d.]+ s \(\d+ MB/s\): ", text), text
