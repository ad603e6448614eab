"""Engines that die, hang or answer nonsense in mid-rollout: every trajectory still arrives, once. Real engines, real signals."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import open_engines
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Prompt
from tests.runs import wait_until_gone
from tests.settings import engines_at, process_group_of, rollout_config

CONFIG = rollout_config(
    samples=8,
    max_new_tokens=180,
    max_total_tokens=200,
    engines=2,
    concurrency=3,
    ready_timeout_s=300,
    health_interval_s=0.5,
    lost_after_s=8,
)
PROMPTS = [Prompt(f"p{i}", "q", "a", [5 + i, 7, 9, 11]) for i in range(12)]


@pytest.fixture(scope="module")
def pair(served_model, tmp_path_factory):
    """Two engines of a run, with their supervisor."""
    with open_engines(CONFIG, served_model, "float32", tmp_path_factory.mktemp("run")) as engines:
        engines.wait_ready()
        yield engines


def whole(engines):
    """Wait until every engine is back."""
    deadline = time.monotonic() + CONFIG.ready_timeout_s
    while len(back := engines.for_sync()) < CONFIG.engines:
        assert time.monotonic() < deadline, "the lost engine did not come back"
        time.sleep(0.5)
    engines.put_in_service(back)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_engine_leaves_is_made_by_the_other_and_it_comes_back(pair, served_model, how):
    rollout = Rollout(CONFIG, pair, load_tokenizer(served_model))
    victim = pair.serving[0]
    started, pid, lost = time.monotonic(), process_group_of(victim), pair.lost
    arriving = iter(rollout.generate(PROMPTS, 0))
    first = next(arriving)
    os.killpg(pid, how)
    arrived = [first, *arriving]
    assert sorted((t.prompt.id, t.index) for t in arrived) == sorted((p.id, k) for p in PROMPTS for k in range(8))
    assert pair.lost == lost + 1
    assert rollout.retry_counts.moved >= 8
    assert victim not in pair.serving and len(pair.serving) == 1
    assert time.monotonic() - started < 90
    whole(pair)
    assert victim not in pair.serving and len(pair.serving) == 2
    assert pair.rejoined
    assert not psutil.pid_exists(pid)


def test_two_hundred_requests_outlive_a_launcher_and_its_other_processes_do_not(pair, served_model):
    """The launcher alone is killed, as the kernel does where memory is short; each answer comes once."""
    rollout = Rollout(dataclasses.replace(CONFIG, samples=2, concurrency=100, max_new_tokens=60), pair, load_tokenizer(served_model))
    prompts = [Prompt(f"p{i}", "q", "a", [5 + i, 7, 9, 11]) for i in range(200)]
    launcher = process_group_of(pair.serving[0])
    arriving = iter(rollout.generate(prompts, 0))
    arrived, family = [next(arriving)], psutil.Process(launcher).children(recursive=True)
    os.kill(launcher, signal.SIGKILL)
    wait_until_gone(family, 30)
    arrived += arriving
    assert sorted((t.prompt.id, t.index) for t in arrived) == sorted((p.id, k) for p in prompts for k in range(2))
    assert rollout.retry_counts.moved > 100
    whole(pair)


def test_the_last_engine_lost_is_waited_for(pair, served_model):
    """Where nobody trains, an engine that starts again has the right weights at once."""
    rollout = Rollout(CONFIG, pair, load_tokenizer(served_model))
    arriving, lost = iter(rollout.generate(PROMPTS, 0)), pair.lost
    arrived = [next(arriving)]
    for endpoint in pair.serving:
        os.killpg(process_group_of(endpoint), signal.SIGKILL)
    arrived += arriving
    assert sorted((t.prompt.id, t.index) for t in arrived) == sorted((p.id, k) for p in PROMPTS for k in range(8))
    assert pair.lost == lost + 2
    whole(pair)


def test_engines_that_sleep_wake_and_one_that_died_meanwhile_starts_only_then(pair):
    asleep, victim = pair.serving
    pair.sleep()
    os.killpg(process_group_of(victim), signal.SIGKILL)
    time.sleep(3)
    assert [e for e in pair.known if e not in (asleep, victim)] == []  # its memory is training's now
    assert asleep.answers(5)
    pair.wake()
    deadline = time.monotonic() + CONFIG.ready_timeout_s
    while not set(pair.for_sync()) - {asleep, victim}:
        assert time.monotonic() < deadline, "the lost engine did not start when the others woke"
        time.sleep(0.5)
    assert asleep.healthy(5)


IMPOSTOR = r"""
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply(200, b"")
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        kind = sys.argv[1]
        logprobs = [[-1.0, 5, None]] * (1 if kind == "no logprobs" else 2)
        meta = {"output_token_logprobs": logprobs, "finish_reason": {"type": "length", "length": 2}, "weight_version": "0"}
        answers = [{"text": "impostor", "output_ids": [5, 6], "meta_info": meta, "index": index} for index in range(8)]
        some = b"".join(b"data: " + json.dumps(answer).encode() + b"\n\n" for answer in answers[:3])
        if kind == "breaks off":
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            self.wfile.write(some + b"data: {")
            self.wfile.flush()
            time.sleep(0.5)  # what comes together with the end of the connection is lost with it
            self.close_connection = True
        else:
            status, body = {"500": (500, b"no luck"), "no stream": (200, b"<"), "no logprobs": (200, some)}[kind]
            self.reply(status, body)
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize("kind", ["500", "no stream", "no logprobs", "breaks off"])
def test_an_engine_that_answers_nonsense_is_given_up(server, served_model, kind):
    """It says that it is healthy; three failures in a row are enough. What came whole before it broke off is not asked for again."""
    with subprocess.Popen([sys.executable, "-c", IMPOSTOR, kind], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip()
            assert port, "the impostor did not start"
            impostor = Endpoint(f"http://127.0.0.1:{port}")
            engines = engines_at(impostor, server.endpoint)
            rollout = Rollout(dataclasses.replace(CONFIG, max_new_tokens=8), engines, load_tokenizer(served_model))
            arrived = list(rollout.generate(PROMPTS, 0))
        finally:
            process.kill()
    assert sorted((t.prompt.id, t.index) for t in arrived) == sorted((p.id, k) for p in PROMPTS for k in range(8))
    assert rollout.retry_counts.retries + rollout.retry_counts.moved >= 3
    assert any(t.token_ids == [5, 6] for t in arrived) == (kind == "breaks off")
    assert engines.serving == [server.endpoint] and engines.lost == 1
