"""What a terminal shows (a real pty), and what a pipe gets: bars in the one, plain lines in the other."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from megatron_oreal.monitor.sampling_progress import SamplingProgress
from megatron_oreal.trajectory import Prompt, Span, Trajectory, Verdict

ROOT = Path(__file__).parents[2]
RUN = """
import time
from megatron_oreal.monitor import console as module
from megatron_oreal.monitor.console import Console
from megatron_oreal.trajectory import Prompt, Trajectory
from megatron_oreal.verify import Verifier
from tests.settings import verify_config

module.PLAIN_LINE_S = {plain_line_s}

class Slowly(list):
    def __iter__(self):
        for one in super().__iter__():
            time.sleep(0.15)
            yield one

def ask(verifier, questions):
    verifier.verify(Slowly(
        Trajectory(Prompt(f"q{{q}}", "?", "5", [1]), i, [1] * 10, [0.0] * 10, "so \\\\boxed{{%d}}" % (5 + i), "stop", 0)
        for q in range(questions) for i in range(2)
    ), samples=2)

with Console("OREAL", 3) as console, Verifier(verify_config(workers=1)) as verifier:
    verifier.watch = lambda expected: console.sampling("rollout", expected)
    ask(verifier, 6)
    console.step(1, "right 50.0%")
    time.sleep(0.6)
    console.say("the end")
"""


def script(plain_line_s: float) -> list[str]:
    return [sys.executable, "-c", RUN.format(plain_line_s=plain_line_s)]


def in_a_terminal(command: list[str]) -> str:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait(timeout=60) == 0, b"".join(parts).decode()
    return b"".join(parts).decode()


def test_a_terminal_has_a_bar_for_the_run_and_one_for_the_rollout_in_progress():
    output = in_a_terminal(script(60))
    assert "\x1b[" in output and "━" in output
    during, after = output.split("step 1/3  right 50.0%")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", during)
    assert re.search(r"OREAL\s+━+\s+0/3", plain)
    assert re.search(r"rollout\s+[━╸╺]+\s+[1-9]\d?/12\s+\d+ tokens/s, right 50\.0%\s+0:00:0\d\s+0:00:0\d", plain), plain
    assert "1/3" in after and "the end" in after and "rollout" not in after


def test_elsewhere_only_whole_lines_are_written():
    done = subprocess.run(script(0.7), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and "━" not in done.stdout and "\r" not in done.stdout
    *progress, step, end = done.stdout.splitlines()
    assert (step, end) == ("step 1/3  right 50.0%", "the end")
    assert 1 <= len(progress) <= 3
    assert all(re.fullmatch(r"rollout \d+/12, \d+ tokens/s(, right [\d.]+%)?, 0:00:0\d left", line) for line in progress), progress


def test_what_was_sampled_before_and_what_nobody_could_tell_do_not_count():
    state, prompt = SamplingProgress(4), Prompt("q", "?", "5", [1])
    state.arrived(Trajectory(prompt, 0, [1] * 30, [0.0] * 30, "", "stop", version=2, earlier=[Span(1, 20)]))
    for verdict in (Verdict(True, "equal"), Verdict(False, "different"), Verdict(False, "timeout", decided=False, left_out=True)):
        state.judged(verdict)
    assert (state.trajectories, state.tokens, state.verdicts, state.right) == (1, 10, 2, 1)
    state._started -= 10
    assert state.rates() == "1 tokens/s, right 50.0%"
    assert state.line() == "1/4, 1 tokens/s, right 50.0%, 0:00:30 left"
