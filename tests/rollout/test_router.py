"""Generation through SGLang's router, a process of its own in front of a real engine; control calls go past it."""

import subprocess
import sys
import time

import pytest
import requests
import torch

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.launcher import free_port
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Prompt
from tests.settings import engines_at, rollout_config

READY_S = 60
pytest.importorskip("sglang_router", reason="needs the package sglang-router")


@pytest.fixture(scope="module")
def router(server, tmp_path_factory):
    port, log = free_port(), tmp_path_factory.mktemp("router") / "log"
    command = [sys.executable, "-m", "sglang_router.launch_router", "--worker-urls", server.endpoint.url, "--policy", "round_robin"]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--api-key", server.endpoint.key]
    with open(log, "wb") as out, subprocess.Popen([*command, *flags], stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + READY_S
            while not _ready(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            process.kill()


def _ready(url: str) -> bool:
    try:
        return requests.get(url + "/readiness", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_samples_come_through_the_router_and_a_cut_reaches_the_engines(router, server, served_model):
    config = rollout_config(
        samples=4, max_new_tokens=60, max_total_tokens=100, concurrency=2, placement="external", urls=[server.endpoint.url], router=router
    )
    rollout = Rollout(config, engines_at(server.endpoint), load_tokenizer(served_model))
    generator = torch.Generator().manual_seed(3)
    prompts = [Prompt(f"p{i}", "q", "a", torch.randint(3, 500, (5,), generator=generator).tolist()) for i in range(40)]
    sampling = rollout.generate(prompts, 0)
    arriving = iter(sampling)
    arrived = [next(arriving)]
    sampling.stop_early()
    arrived = [t for t in [*arrived, *arriving] if t.prompt.id not in sampling.cut()]
    arrived += rollout.generate([], 0, unfinished=sampling.unfinished)
    assert sorted((t.prompt.id, t.index) for t in arrived) == sorted((p.id, k) for p in prompts for k in range(4))
    assert rollout.retry_counts.retries == rollout.retry_counts.moved == 0
    with pytest.raises(ServerError, match="status 40[0-9]"):
        Endpoint(router, server.endpoint.key).post("/pause_generation", {"mode": "retract"})


def test_what_was_cut_goes_on_through_the_router(router, server, served_model):
    """It takes no list of sampling parameters, as a question's cut samples have in one request to an engine."""
    external = {"placement": "external", "urls": [server.endpoint.url], "router": router}
    rollout = Rollout(
        rollout_config(samples=4, max_new_tokens=180, max_total_tokens=200, **external),
        engines_at(server.endpoint),
        load_tokenizer(served_model),
    )
    left = []
    for _ in range(20):
        sampling = rollout.generate([Prompt("p", "q", "a", [7, 8, 9, 10])], 0)
        sampling.begin()
        time.sleep(0.1)
        left = sampling.cut_all()
        if left and sum(t.finish == "cut" and len(t.token_ids) > 0 for t in left[0].trajectories) > 1:
            break
    begun = {t.index: t.token_ids for t in left[0].trajectories}
    assert len(begun) > 1
    ended = list(rollout.generate([], 0, unfinished=left))
    assert [t.index for t in sorted(ended, key=lambda t: t.index)] == [0, 1, 2, 3]
    assert all(t.token_ids[: len(begun.get(t.index, []))] == begun.get(t.index, []) for t in ended)
    assert rollout.retry_counts.retries == rollout.retry_counts.moved == 0
