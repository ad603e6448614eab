"""Servers that do not come up say why; servers never outlive who started them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.server import ServerError, open_server


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_server_that_ends_at_start_shows_status_and_the_tail_of_its_log(served_model, tmp_path):
    config = RolloutConfig(server_args={"no-such-flag": 1}, ready_timeout_s=120)
    with open_server(config, served_model, "float32", tmp_path) as server, pytest.raises(ServerError) as caught:
        server.wait_ready()
    assert "ended with status 2" in str(caught.value)
    assert "no-such-flag" in str(caught.value)
    assert str(tmp_path / "sglang.log") in str(caught.value)


def test_a_server_that_takes_too_long_is_named_and_stopped(served_model, tmp_path):
    with open_server(RolloutConfig(ready_timeout_s=0.5), served_model, "float32", tmp_path) as server:
        with pytest.raises(ServerError, match="did not answer within rollout.ready_timeout_s"):
            server.wait_ready()
        pid = server._process.pid
    assert gone_within(pid, 1)


def test_a_killed_parent_leaves_no_server(served_model, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from pathlib import Path
        from megatron_oreal.rollout.config import RolloutConfig
        from megatron_oreal.rollout.server import Server
        server = Server(RolloutConfig(), {served_model!r}, "float32", Path({str(tmp_path)!r}))
        print(server._process.pid, flush=True)
        time.sleep(60)
        """)
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    server_pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    assert gone_within(server_pid, 20)
