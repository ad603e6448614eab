"""The judge against server processes that are slow, refuse, break off or talk nonsense: never a "wrong" by accident."""

import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.errors import ServerError
from megatron_oreal.launcher import free_port
from megatron_oreal.monitor.metrics import rollout_metrics
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Prompt, SelectionCounts, Trajectory
from megatron_oreal.verify import Verifier, VerifyConfig
from tests.settings import judge_config, rollout_config, verify_config

SERVER = Path(__file__).with_name("judge_server.py")
GOLD = r"\sum_{k} k"  # what the rules cannot read


@contextmanager
def judge_server(kind: str, seconds: float = 0.0):
    """A running server; its URL."""
    with subprocess.Popen([sys.executable, str(SERVER), kind, str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def seen(url: str) -> dict:
    return requests.get(url + "/seen", timeout=10).json()


def settings(*urls: str, mode: str = "rule_then_judge", **judge) -> VerifyConfig:
    quick = {"timeout_s": 5.0, "backoff_s": 0.01, "start_timeout_s": 10.0, "wait_s": 30.0}
    return verify_config(mode=mode, workers=1, judge=judge_config(urls=list(urls), model="m", **(quick | judge)))


def trajectories(gold: str, *answers: str, name: str = "p", finish: str = "stop") -> list[Trajectory]:
    prompt = Prompt(name, "What is it?", gold, [1])
    return [Trajectory(prompt, i, [1], [0.0], rf"so \boxed{{{answer}}}", finish, 3) for i, answer in enumerate(answers)]


def verified(config: VerifyConfig, *of: list[Trajectory], audit: Path | None = None):
    with Verifier(config, audit) as verifier:
        groups = verifier.verify([t for some in of for t in some], len(of[0]))
        return groups, verifier.tally


def test_the_rules_come_first_and_the_judge_decides_the_rest(tmp_path):
    with judge_server("honest") as url:
        groups, tally = verified(settings(url), trajectories("5", "5", "good", "6", "6"), audit=tmp_path / "audit")
        asked = seen(url)["bodies"]
    assert groups[0].rewards == [1, 1, -1, -1]
    assert [v.reason for v in groups[0].verdicts] == ["equal", "judge: correct", "judge: incorrect", "judge: incorrect"]
    metrics = tally.metrics()
    assert len(asked) == metrics["verify/judge_requests"] == 2  # 5 is right without a question, 6 is asked about once
    assert (metrics["verify/judge_asked"], metrics["verify/judge_right"], metrics["verify/cache_hits"]) == (3, 1, 1)
    assert asked[0]["model"] == "m" and asked[0]["temperature"] == 0 and asked[0]["max_tokens"] == 2048


def test_what_is_asked_depends_on_mode_and_judge_on():
    with judge_server("honest") as url:
        config = replace(settings(url), judge_on="undecided")
        groups, _ = verified(config, trajectories("5", "6", "7"), trajectories(GOLD, "good", "bad", name="q"))
        assert [g.rewards for g in groups] == [[-1, -1], [1, -1]]
        assert seen(url)["asked"] == 2
        groups, tally = verified(settings(url, mode="judge"), trajectories("5", "5", "good"))
        assert groups[0].rewards == [-1, 1]  # this judge finds only "good" good
        assert seen(url)["asked"] == 4
        verified(settings(url, mode="judge"), trajectories("5", "5", "6", finish="length"))
        assert seen(url)["asked"] == 4  # incomplete is wrong without asking


def test_disagreements_are_written_once_a_case_in_whole_lines(tmp_path):
    path = tmp_path / "disagreements.jsonl"
    with judge_server("honest") as url:
        some = trajectories("5", "5", "good", "good", "6"), trajectories(GOLD, "good", "1", "2", "3", name="q")
        _, tally = verified(settings(url, mode="judge"), *some, audit=path)
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    both = {(r["answer"], r["rule"]["right"], r["rule"]["reason"], r["judge"]["right"]) for r in rows}
    assert ("5", True, "equal", False) in both
    assert all(r["gold"] == "5" and r["question"] == "What is it?" and r["version"] == 3 for r in rows)  # q's rules are undecided
    assert rows[0]["judge"]["reply_end"].endswith("CORRECT**")
    assert tally.disagreements >= len(rows) == len({r["answer"] for r in rows})


def test_a_host_that_refuses_what_openai_does_not_have_is_asked_without_it():
    with judge_server("strict") as url:
        groups, tally = verified(settings(url, concurrency=1), trajectories("5", "good", "6", "7"))
        asked = seen(url)["bodies"]
    assert groups[0].rewards == [1, -1, -1] and tally.requests.failures == 0
    assert ["repetition_penalty" in body for body in asked] == [True, False, False, False]


@pytest.mark.parametrize(
    ("kind", "reason", "failures", "unclear", "requests_sent"),
    [
        ("mumbles", "judge: unclear", 0, 3, 3),
        ("cut", "judge: unclear", 0, 3, 3),
        ("no json", "judge: failed, no JSON", 3, 0, 3),
        ("no choices", "judge: failed, no chat completion", 3, 0, 3),
        ("breaks off", "judge: failed, ClientPayloadError", 3, 0, 3),
        ("overloaded", "judge: failed, status 429", 3, 0, 3),
        ("broken", "judge: failed, status 500", 3, 0, 3),
        ("too long", "judge: refused, status 400", 1, 0, 2),  # once without what OpenAI's protocol does not have
    ],
)
def test_what_brings_no_verdict_is_asked_again_and_then_undecided(kind, reason, failures, unclear, requests_sent):
    with judge_server(kind) as url:
        groups, tally = verified(settings(url), trajectories("5", "6", "5"))
        assert seen(url)["asked"] == requests_sent
    assert groups[0].verdicts[0].reason == reason and groups[0].rewards == [0, 1]
    assert (tally.requests.failures, tally.requests.unclear) == (failures, unclear)
    metrics = rollout_metrics(groups, SelectionCounts())
    assert metrics["verify/undecided"] == metrics["verify/left_out"] == 1
    assert metrics[f"verify/undecided/{reason.partition(', ')[0].replace(': ', '_')}"] == 1
    assert metrics["reward/pass_rate"] == 1


@pytest.mark.parametrize("kind", ["recovers", "mumbles first"])
def test_what_fails_at_first_is_decided_in_the_end(kind):
    with judge_server(kind) as url:
        groups, _ = verified(settings(url), trajectories("5", "good", "5"))
    assert groups[0].rewards == [1, 1]


def test_undecided_counts_as_wrong_where_it_is_to():
    with judge_server("mumbles") as url:
        groups, _ = verified(replace(settings(url), undecided="wrong"), trajectories("5", "6", "5"))
    assert groups[0].rewards == [-1, 1] and not groups[0].verdicts[0].decided


def test_a_slow_reply_has_a_deadline():
    with judge_server("honest", 30) as url:
        started = time.monotonic()
        groups, tally = verified(settings(url, timeout_s=0.5, attempts=2), trajectories("5", "6", "5"))
        assert time.monotonic() - started < 15
    assert groups[0].verdicts[0].reason == "judge: failed, no answer within 0.5 s" and tally.requests.failures == 2


def test_hosts_share_the_questions_each_within_its_limit():
    answers = [f"{i}" for i in range(10, 34)]
    with judge_server("honest", 0.1) as one, judge_server("honest", 0.1) as other:
        groups, _ = verified(settings(one, other + "/v1", concurrency=3), trajectories("5", *answers))
        loads = [seen(one), seen(other)]
    assert groups[0].rewards == [-1] * 24
    assert sum(load["asked"] for load in loads) == 24
    assert all(load["most_at_once"] <= 3 and load["asked"] >= 6 for load in loads)


def test_a_host_that_fails_is_left_alone_and_tried_again():
    answers = [f"{i}" for i in range(10, 40)]
    with judge_server("broken") as bad, judge_server("honest") as good, ExitStack() as stack:
        config = settings(bad, good, breaker_failures=3, breaker_s=1.5, concurrency=2, attempts=5)
        verifier = stack.enter_context(Verifier(config))
        assert verifier.verify(trajectories("5", *answers), 30)[0].rewards == [-1] * 30
        before = seen(bad)["asked"]
        assert 3 <= before <= 3 + 2  # those that were under way when it was given up
        time.sleep(1.6)
        assert verifier.verify(trajectories("5", *(a + "0" for a in answers)), 30)[0].rewards == [-1] * 30
        assert 1 <= seen(bad)["asked"] - before <= 2  # one request tries it


def test_hosts_that_are_all_gone_cost_one_deadline_and_nothing_hangs():
    with judge_server("honest") as url:
        config = settings(url, timeout_s=1.0, breaker_failures=2, breaker_s=60)
        verifier = Verifier(config)
    with verifier:
        started = time.monotonic()
        group = verifier.verify(trajectories("5", "5", *(f"{i}" for i in range(10, 30))), 21)[0]
        assert time.monotonic() - started < 15
        assert group.rewards == [1] + [0] * 20
        assert {v.reason for v in group.verdicts[1:]} <= {"judge: no host", "judge: failed, ClientConnectorError"}
        started = time.monotonic()
        group = verifier.verify(trajectories("5", "5", *(f"{i}" for i in range(40, 60))), 21)[0]
        assert time.monotonic() - started < 1.0 and group.rewards == [1] + [0] * 20


def test_verdicts_are_found_again_in_the_next_run_and_a_torn_line_costs_one_question(tmp_path):
    cache = tmp_path / "cache" / "judge.jsonl"
    some = trajectories("5", "good", "6")
    with judge_server("honest") as url:
        for _ in range(2):
            groups, tally = verified(settings(url, cache=str(cache)), some)
            assert groups[0].rewards == [1, -1]
        assert seen(url)["asked"] == 2 and tally.judged["known"] == 2
        cache.write_bytes(cache.read_bytes()[:-20])
        groups, _ = verified(settings(url, cache=str(cache)), some)
        assert groups[0].rewards == [1, -1] and seen(url)["asked"] == 3
        verified(settings(url, cache=str(cache)), some)
        assert seen(url)["asked"] == 3
    cache.write_text('{"question": 1}\n')
    with pytest.raises(ValueError, match=r"verify.judge.cache: .*judge.jsonl:1 is no line of a judge's cache"):
        Verifier(settings("http://127.0.0.1:9", cache=str(cache)))


def test_undecided_is_not_cached(tmp_path):
    cache = tmp_path / "judge.jsonl"
    with judge_server("mumbles") as url:
        verified(settings(url, cache=str(cache)), trajectories("5", "6", "5"))
    assert cache.read_bytes() == b""


def test_the_key_is_sent_and_a_judge_that_does_not_answer_is_one_line(tmp_path):
    key = tmp_path / "key"
    key.write_text("sesame\n")
    closed = f"http://127.0.0.1:{free_port()}"
    with judge_server("keyed") as url:
        groups, _ = verified(settings(closed, url, key_file=str(key)), trajectories("5", "good", "6"))
        assert groups[0].rewards == [1, -1]  # one host is enough to begin
        assert set(seen(url)["keys"]) == {"Bearer sesame"}
        with pytest.raises(ServerError, match=rf"verify.judge.urls: no host answers /v1/models \({url}: status 401\)"):
            Verifier(settings(url))
    with pytest.raises(ServerError, match=rf"no host answers /v1/models \({closed}: ClientConnectorError\)"):
        Verifier(settings(closed))
    with judge_server("no models") as url, pytest.raises(ServerError, match="status 503"):
        Verifier(settings(url))
    with pytest.raises(ValueError, match="verify.judge.key_file: .*nowhere"):
        Verifier(settings(closed, key_file=str(tmp_path / "nowhere")))


PROMPTS = [Prompt(f"p{i}", f"question {i}", "5", [5 + i, 7, 9, 11]) for i in range(8)]


def test_a_slow_judge_neither_holds_generation_up_nor_the_step_beyond_its_deadline(engines, served_model):
    """Real rollouts; their random text gets an answer that the rules call wrong."""
    rollout = Rollout(rollout_config(samples=4, max_new_tokens=100, max_total_tokens=200), engines, load_tokenizer(served_model))
    arrivals = []

    def arriving(sampling):
        for t in sampling:
            number = 100 * int(t.prompt.id[1:]) + t.index
            yield replace(t, text=rf"\boxed{{{number if t.index else 5}}}", finish="stop")
            arrivals.append(time.monotonic())

    with judge_server("honest", 1.0) as url, Verifier(settings(url, timeout_s=60, concurrency=4, wait_s=2.5)) as verifier:
        list(rollout.generate(PROMPTS[:1], 0))  # the server is warm
        started = time.monotonic()
        alone = len(list(rollout.generate(PROMPTS, 0)))
        alone_s = time.monotonic() - started
        started = time.monotonic()
        heard = []
        groups = verifier.verify(arriving(rollout.generate(PROMPTS, 0)), 4, heard.append)
        took = time.monotonic() - started
        tally = verifier.tally
    assert alone == len(arrivals) == 32 and sorted(g.prompt.id for g in groups) == sorted(p.id for p in PROMPTS)
    assert arrivals[-1] - started < alone_s * 3 + 2  # 24 questions of 1 s, 4 at a time, are 6 s
    assert 2.4 < tally.tail_s < 5 and took < arrivals[-1] - started + 5
    assert len(heard) == 8  # every group is complete: nothing is lost
    reasons = [v.reason for g in groups for v in g.verdicts]
    assert reasons.count("equal") == 8 and 1 <= reasons.count("judge: incorrect") <= 16
    assert reasons.count("judge: late") == 24 - reasons.count("judge: incorrect")
    assert all(g.rewards.count(0) == sum(v.reason == "judge: late" for v in g.verdicts) for g in groups)
