"""launch/gpu_checks.sh without a GPU: what it would run, what it refuses, and that a failed part does not stop the rest."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests import runs

ROOT = Path(__file__).resolve().parents[2]
CALLS = ("install modules learn+loop engine slice", "install step", "install plain logprobs", "install sync demo")


def check(tmp_path: Path, *words: str, path: str = "") -> subprocess.CompletedProcess:
    (tmp_path / "kit").mkdir(exist_ok=True)
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    flags, parts = [w for w in words if w.startswith("-")], [w for w in words if not w.startswith("-")]
    command = ["bash", ROOT / "launch" / "gpu_checks.sh", *flags, tmp_path / "kit", tmp_path / "out", *parts]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)


@pytest.mark.parametrize("parts", CALLS)
def test_the_calls_that_its_head_names_are_within_the_limit(tmp_path, parts):
    done = check(tmp_path, "--dry-run", *parts.split())
    assert done.returncode == 0, done.stderr
    assert parts in (ROOT / "launch" / "gpu_checks.sh").read_text()
    table = done.stdout.rsplit("\n\n", 1)[1]
    assert re.findall(r"^(\w+) +done", table, re.M) == re.split("[ +]", parts)


def test_benches_know_the_options_that_they_are_given(tmp_path):
    said = "".join(check(tmp_path, "--dry-run", part).stdout for part in ("slice", "step", "plain", "logprobs", "sync"))
    commands = [shlex.split(line[2:]) for line in said.splitlines() if "tools/bench_" in line and line.startswith("+ ")]
    assert len(commands) == 5
    for command in commands:
        known = runs.finish(runs.start("--help", module=command[1].removesuffix(".py").replace("/", ".")))
        for option in (word for word in command[2:] if word.startswith("--")):
            assert option in known, (command[1], option)


def test_what_cannot_be_done_is_refused_in_one_line(tmp_path):
    for parts, message in (("step plain", "add up to 920 s"), ("nonsense", "no part is called nonsense")):
        done = check(tmp_path, *parts.split())
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(f"gpu_checks: .*{message}.*\n", done.stderr)


def test_a_failed_part_is_named_and_the_next_one_runs(tmp_path):
    stand_in = tmp_path / "python3"
    stand_in.write_text('#!/bin/sh\ncase "$*" in *pytest*) exit 3;; esac\necho "ran $1"\n')
    stand_in.chmod(0o755)
    done = check(tmp_path, "learn+engine", "logprobs", path=str(tmp_path))
    assert done.returncode == 1
    assert re.search(r"^learn +failed \(3\)", done.stdout, re.M) and re.search(r"^logprobs +done", done.stdout, re.M)
    assert re.search(r"^engine +failed \(3\)", done.stdout, re.M)
    assert "ran tools/bench_logprobs.py" in (tmp_path / "out" / "logprobs.log").read_text()


def test_joined_parts_run_at_the_same_time(tmp_path):
    """Each of the two waits for the other's log."""
    stand_in = tmp_path / "python3"
    stand_in.write_text(f"""#!/bin/sh
case "$*" in *tests/sync*) other=learn;; *) other=engine;; esac
for _ in $(seq 100); do [ -e {tmp_path}/out/$other.log ] && exit 0; sleep 0.1; done
exit 4
""")
    stand_in.chmod(0o755)
    assert check(tmp_path, "learn+engine", path=str(tmp_path)).returncode == 0
