"""Servers that do not come up say why; servers never outlive who started them."""

import dataclasses
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

import psutil
import pytest

from megatron_oreal.engines import server as server_module
from megatron_oreal.engines.server import Server
from megatron_oreal.errors import ServerError
from megatron_oreal.launcher import HeldPort
from tests.settings import rollout_config

pytestmark = pytest.mark.usefixtures("by_hand")
ROOT = Path(__file__).parents[2]
PARENT = """
import threading, time
from pathlib import Path
from megatron_oreal.engines.server import Server
from tests.settings import rollout_config
server = Server(rollout_config(max_new_tokens=100, max_total_tokens=200, ready_timeout_s=300), {model!r}, "float32", Path({folder!r}))
if {sampling}:
    server.wait_ready()
    endless = {{"input_ids": [5] * 4, "sampling_params": {{"n": 8, "max_new_tokens": 190, "ignore_eos": True}}}}
    threading.Thread(target=server.endpoint.post, args=("/generate", endless), daemon=True).start()
print(server._process.pid, flush=True)
time.sleep(600)
"""


def group(pgid: int) -> list[psutil.Process]:
    """Living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_a_server_that_ends_at_start_shows_status_and_the_tail_of_its_log(served_model, tmp_path):
    config = rollout_config(server_args={"no-such-flag": 1}, ready_timeout_s=120)
    with Server(config, served_model, "float32", tmp_path) as server, pytest.raises(ServerError) as caught:
        server.wait_ready()
    assert "ended with status 2" in str(caught.value)
    assert "no-such-flag" in str(caught.value)
    assert str(tmp_path / "sglang.log") in str(caught.value)


def test_a_server_that_takes_too_long_is_named_and_stopped(served_model, tmp_path):
    with Server(rollout_config(ready_timeout_s=0.5), served_model, "float32", tmp_path) as server:
        with pytest.raises(ServerError, match="did not answer within rollout.ready_timeout_s"):
            server.wait_ready()
        pid = server._process.pid
    assert not group(pid)


@pytest.mark.parametrize("moment", ["starting", "sampling"])
def test_a_killed_parent_leaves_no_process_of_its_server(served_model, tmp_path, moment):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(model=served_model, folder=str(tmp_path), sampling=moment == "sampling"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            server = int(parent.stdout.readline())
            assert moment == "starting" or len(group(server)) >= 3  # launcher, scheduler, detokenizer
        finally:
            parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (left := group(server)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_only_who_has_the_key_may_sample_and_only_our_user_may_read_it(server):
    stranger = dataclasses.replace(server.endpoint, key=None)
    with pytest.raises(ServerError, match="status 401"):
        stranger.post("/generate", {"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 1}})
    assert not any(server.endpoint.key in " ".join(process.cmdline()) for process in group(server._process.pid))
    folder = Path(server.endpoint.log).parent
    with_key = [f for f in folder.iterdir() if server.endpoint.key in f.read_text(errors="replace")]
    assert with_key and all(stat.S_IMODE(f.stat().st_mode) == 0o600 for f in with_key)


def test_cudas_runtime_and_compiler_are_found_beside_torch(monkeypatch, tmp_path):
    """A wheel's folder is no place where the dynamic loader looks, nor where FlashInfer looks for a compiler."""
    there = tmp_path / "nvidia" / "cu13" / "lib"
    there.mkdir(parents=True)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    monkeypatch.setattr(server_module, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    assert server_module.cuda_of_wheels() == {}  # as where CUDA is installed for all
    (there / "libcudart.so.13").touch()
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert server_module.cuda_of_wheels() == {"LD_LIBRARY_PATH": f"{there}:/opt/lib"}
    compiler = there.parent / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.touch()
    assert server_module.cuda_of_wheels() == {"LD_LIBRARY_PATH": f"{there}:/opt/lib", "CUDA_HOME": str(there.parent)}
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    assert "CUDA_HOME" not in server_module.cuda_of_wheels()


def test_held_ports_are_all_different_and_only_for_whom_they_are_held():
    """Eight engines with two ports each, thirty times: by chance alone two of them would have the same nearly always."""
    held = [HeldPort() for _ in range(8 * 2 * 30)]
    try:
        assert len({port.number for port in held}) == len(held)
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", held[0].number))
        for address, family in (("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::1", socket.AF_INET6)):
            with socket.create_server((address, held[0].number), family=family):
                pass
    finally:
        for port in held:
            port.let_go()
