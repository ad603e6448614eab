"""The pool with real worker processes: groups, deadlines, deaths."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_oreal.trajectory import Prompt, Trajectory, Verdict
from megatron_oreal.verify import Verifier
from tests.settings import verify_config


def prompt(name: str, gold: str) -> Prompt:
    return Prompt(id=name, question="?", gold_answer=gold, token_ids=[1])


def trajectory(of: Prompt, index: int, answer: str, finish: str = "stop") -> Trajectory:
    return Trajectory(of, index, [1], [0.0], rf"so \boxed{{{answer}}}", finish, version=0)


@pytest.fixture(scope="module")
def verifier():
    with Verifier(verify_config(workers=2)) as one:
        yield one


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_groups_are_in_order_of_arrival_and_samples_in_order_of_index(verifier):
    a, b = prompt("a", "5"), prompt("b", r"\frac{1}{2}")
    arriving = [trajectory(b, 1, "0.5"), trajectory(a, 0, "5"), trajectory(b, 0, "2"), trajectory(a, 1, "x=5", "length")]
    groups = verifier.verify(iter(arriving), samples=2)
    assert [group.prompt.id for group in groups] == ["b", "a"]
    assert [[t.index for t in group.trajectories] for group in groups] == [[0, 1], [0, 1]]
    assert [group.rewards for group in groups] == [[-1, 1], [1, -1]]
    assert groups[1].verdicts[1] == Verdict(False, "incomplete")


def test_nothing_arrived_is_no_group(verifier):
    assert verifier.verify([], samples=4) == []


def test_a_wrong_number_of_samples_is_named(verifier):
    a = prompt("the-prompt", "5")
    with pytest.raises(ValueError, match="'the-prompt': samples 0 came, 0 to 1 were expected"):
        verifier.verify([trajectory(a, 0, "5")], samples=2)
    with pytest.raises(ValueError, match="'the-prompt': sample 0 came twice"):
        verifier.verify([trajectory(a, 0, "5"), trajectory(a, 0, "5")], samples=2)
    with pytest.raises(ValueError, match="samples 0, 2 came"):
        verifier.verify([trajectory(a, 0, "5"), trajectory(a, 2, "5")], samples=2)


def test_verification_overlaps_with_generation(verifier):
    a = prompt("overlap", "41+1")
    seen = []

    def generate():
        yield trajectory(a, 0, r"\frac{84}{2}")
        seen.append(until(lambda: verifier._pool.known(r"\frac{84}{2}", "41+1") is not None, 10))
        yield trajectory(a, 1, "43")

    assert verifier.verify(generate(), samples=2)[0].rewards == [1, -1]
    assert seen == [True]


def test_hostile_answers_do_not_harm_their_neighbours(verifier):
    a = prompt("hostile", "5")
    answers = ["9^{9^{9^9}}", "5", "(" * 5000, "5", "\ud800", "5", "99999999!", "5"]
    group = verifier.verify([trajectory(a, i, answer) for i, answer in enumerate(answers)], samples=len(answers))[0]
    assert [v.right for v in group.verdicts] == [False, True] * 4


def test_a_killed_worker_costs_one_case():
    a = prompt("killed", "5")
    with Verifier(verify_config(workers=1)) as one:
        assert one.verify([trajectory(a, 0, "5")], samples=1)[0].rewards == [1]
        os.kill(one.worker_pids[0], signal.SIGKILL)
        answers = [f"{n}+{5 - n}" for n in range(5)]
        group = one.verify([trajectory(a, i, answer) for i, answer in enumerate(answers)], samples=5)[0]
    assert sum(v.right for v in group.verdicts) == 4
    assert [v for v in group.verdicts if not v.right] == [Verdict(False, "crash", decided=False, left_out=True)]
    assert group.rewards.count(0) == 1 and group.pass_rate == 1


def test_a_worker_past_its_deadline_is_replaced():
    a = prompt("stopped", "5")
    with Verifier(verify_config(workers=1, timeout_s=0.5)) as one:
        assert one.verify([trajectory(a, 0, "5")], samples=1)[0].rewards == [1]
        stopped = one.worker_pids[0]
        os.kill(stopped, signal.SIGSTOP)
        started = time.monotonic()
        group = one.verify([trajectory(a, 0, "4+1"), trajectory(a, 1, "3+2")], samples=2)[0]
        assert time.monotonic() - started < 20
        assert sorted(v.reason for v in group.verdicts) == ["equal", "timeout"]
        assert one.worker_pids[0] != stopped and not alive(stopped)


def test_workers_run_within_their_memory():
    a = prompt("memory", r"\sqrt{8}")
    with Verifier(verify_config(workers=1, memory_mb=128)) as one:
        assert one.verify([trajectory(a, 0, r"2\sqrt{2}")], samples=1)[0].rewards == [1]
        limits = Path(f"/proc/{one.worker_pids[0]}/limits").read_text()
    assert str(128 << 20) in next(line for line in limits.splitlines() if line.startswith("Max address space"))


def test_workers_end_with_close():
    one = Verifier(verify_config(workers=2))
    pids = one.worker_pids
    one.close()
    assert until(lambda: not any(map(alive, pids)), 10)


def test_workers_end_with_a_parent_that_is_killed():
    script = (
        "import os, sys\nfrom megatron_oreal.verify import Verifier\nfrom tests.settings import verify_config\n"
        "print(*Verifier(verify_config(workers=2)).worker_pids, flush=True)\nos.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=root)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert until(lambda: not any(map(alive, pids)), 10)


def test_a_thousand_long_responses_take_seconds(verifier):
    filler = ("Let $x_{1} = \\frac{1}{2}$ and \\{a, b\\}, so we go on. " * 700)[:30_000]
    prompts = [prompt(f"long-{n}", str(n)) for n in range(64)]
    arriving = [
        Trajectory(p, k, [1], [0.0], filler + rf"\boxed{{{n + k % 2} + {k} - {k}}}", "stop", 0)
        for k in range(16)
        for n, p in enumerate(prompts)
    ]
    started = time.monotonic()
    groups = verifier.verify(iter(arriving), samples=16)
    assert time.monotonic() - started < 10
    assert all(group.rewards == [1, -1] * 8 for group in groups)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"timeout_s": 0}, {"timeout_s": -1.0}, {"memory_mb": 10}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        verify_config(**wrong)


@pytest.mark.parametrize(("extract", "verdict"), [("boxed", Verdict(False, "no answer")), ("any", Verdict(True, "equal"))])
def test_an_answer_without_a_box_counts_where_it_is_wanted(extract, verdict):
    with Verifier(verify_config(workers=1, extract=extract)) as verifier:
        (group,) = verifier.verify([Trajectory(prompt("a", "5"), 0, [1], [0.0], "So the answer is $5$.", "stop", version=0)], samples=1)
        assert group.verdicts == [verdict]
        assert verifier.final_answer("So the answer is $5$.") == ("5" if extract == "any" else None)
