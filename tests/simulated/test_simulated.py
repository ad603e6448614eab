"""Simulated engines beside a real one: the same calls, the same form of answers; and the plan's seconds."""

import asyncio
import queue
import threading
import time
from dataclasses import replace

import msgspec
import pytest
import requests

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.engine import sampler
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.operations.sampling import Sampler, sampling_seconds
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.simulated.answers import Answers
from megatron_oreal.simulated.clock import Clock
from megatron_oreal.simulated.engine import Engine
from megatron_oreal.simulated.serve import listening
from megatron_oreal.simulated.server import EngineServer
from megatron_oreal.trajectory import Prompt, Span
from tests.settings import engines_at, rollout_config

CONFIG = rollout_config(samples=4, max_new_tokens=180, max_total_tokens=200, request_timeout_s=60)
PROMPTS = [Prompt(f"p{i}", "q", "a", [5 + i, 7, 9, 11, 13]) for i in range(12)]


@pytest.fixture(scope="module")
def planned() -> Sampler:
    """An engine of the 32B preset, by the maker's figures of its GPUs."""
    config = compose(["experiment=oreal_32b", "plan.tables=null"])
    plan = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False)
    return sampler(config, plan.model.sizes, plan.engine)


class Running(threading.Thread):
    """A server on an event loop of its own."""

    def __init__(self, server: EngineServer, clock: Clock):
        super().__init__(daemon=True)
        self._server, self._clock, self._loop = server, clock, asyncio.new_event_loop()
        self._ended, self._urls = asyncio.Event(), queue.Queue()
        self.start()
        self.url = self._urls.get(timeout=10)

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with listening([self._server], self._clock) as urls:
            self._urls.put(urls[0])
            await self._ended.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join(10)


@pytest.fixture
def simulate(planned, served_model):
    """simulate(speed, room) -> its Endpoint, for answers of some 60 tokens."""
    tokenizer, running = load_tokenizer(served_model), []

    def start(speed: float = 2.0, room: int | None = None) -> Endpoint:
        clock = Clock(speed)
        engine = Engine(replace(planned, room=room or planned.room), 1.0, clock)
        answers = Answers(tokenizer, tokenizer.eos_token_id, 60, 0.7, 0.7, 3)
        running.append(Running(EngineServer(engine, answers, clock, 201, 8, key="secret"), clock))
        return Endpoint(running[-1].url, "secret")

    yield start
    for one in running:
        one.end()


def posted(engine: Endpoint, path: str, body: dict | None = None) -> requests.Response:
    return requests.post(engine.url + path, json=body or {}, headers=engine.headers, timeout=60)


def streamed(engine: Endpoint, tokens: list[int], **sampling) -> list[dict]:
    body = {"input_ids": tokens, "return_logprob": True, "stream": True, "sampling_params": {"stream_interval": 1 << 30, **sampling}}
    answer = posted(engine, "/generate", body)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    *events, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "") and all(event.startswith("data: ") for event in events)
    return [msgspec.json.decode(event.removeprefix("data: ")) for event in events]


def form(value, at: str = "") -> dict[str, type]:
    """Type of each leaf by its path; lists by their first element."""
    if isinstance(value, dict):
        return {path: kind for name, one in value.items() for path, kind in form(one, f"{at}.{name}").items()}
    if isinstance(value, list) and value:
        return form(value[0], f"{at}[]") if not isinstance(value[0], float) else {at: [type(one) for one in value]}
    return {at: type(value)}


def cut(engine: Endpoint) -> list[dict]:
    """The events of a request that is ended from outside; the engine refuses to flush meanwhile."""
    events: list[dict] = []
    thread = threading.Thread(target=lambda: events.extend(streamed(engine, [5, 6, 7, 8], n=4, max_new_tokens=190, ignore_eos=True)))
    thread.start()
    time.sleep(0.15)
    assert posted(engine, "/flush_cache").status_code == 400
    assert posted(engine, "/abort_request", {"abort_all": True}).status_code == 200
    thread.join()
    return events


def test_its_answers_have_the_form_of_a_real_engines(simulate, server):
    def of(engine: Endpoint) -> dict[str, list[dict]]:
        return {
            "length": streamed(engine, [5, 6, 7, 8], n=2, max_new_tokens=3),
            "one": streamed(engine, [5, 6, 7, 8], n=1, max_new_tokens=3),
            "too long": streamed(engine, [5] * 300, n=1, max_new_tokens=10),
            "abort": cut(engine),
        }

    real, made = of(server.endpoint), of(simulate(speed=0.5))
    for kind, events in made.items():
        ends = [[e for e in one if "error" in e or e["meta_info"]["finish_reason"]] for one in (real[kind], events)]
        assert len(ends[0]) == len(ends[1]), kind
        for theirs, ours in [(real[kind][0], events[0]), (ends[0][-1], ends[1][-1])]:
            known = form(theirs)
            for path, of_type in form(ours).items():
                assert known.get(path) == of_type, f"{kind}: {path} is {of_type}, of a real engine {known.get(path)}"


def test_its_other_calls_answer_as_a_real_engines_do(simulate, server):
    calls = [
        ("/pause_generation", {"mode": "retract"}),
        ("/flush_cache", {}),
        ("/update_weight_version", {"new_version": "7", "abort_all_requests": False}),
        ("/continue_generation", {}),
        ("/flush_cache?timeout=10", {}),
        ("/release_memory_occupation", {}),
        ("/resume_memory_occupation", {}),
        ("/update_weight_version", {"new_version": "default", "abort_all_requests": False}),
        ("/no_such_call", {}),
    ]

    def of(engine: Endpoint) -> list:
        told = [Endpoint(engine.url, "wrong").works(5)]
        for path, body in calls:
            answer = posted(engine, path, body)
            kind = answer.headers.get("content-type", "")
            keys = sorted(answer.json() or []) if answer.status_code == 200 and kind.startswith("application/json") else None
            told.append((path, answer.status_code, keys, engine.healthy(5), engine.works(5), engine.answers(5)))
        return told

    assert of(simulate()) == of(server.endpoint)


def cut_in_the_middle(rollout: Rollout):
    """What had ended, what goes on, and the samples of it that were in the middle; a fast engine may need several tries."""
    for wait in (0.0, 0.1, 0.2, 0.3, 0.5):
        sampling = rollout.generate(PROMPTS, version=0)
        arriving = iter(sampling)
        done = [next(arriving) for _ in range(8)]
        time.sleep(wait)
        sampling.stop_early()
        done = [t for t in [*done, *arriving] if t.prompt.id not in sampling.cut()]
        begun = {(t.prompt.id, t.index): t for u in sampling.unfinished for t in u.trajectories if t.finish == "cut" and t.token_ids}
        if begun:
            return done, sampling.unfinished, begun
    raise AssertionError("nothing was in the middle of its answer")


@pytest.mark.parametrize("which", ["real", "simulated"])
def test_a_run_that_cuts_it_goes_on_with_what_there_is(which, simulate, server, served_model):
    endpoint = server.endpoint if which == "real" else simulate(speed=0.5)
    rollout = Rollout(replace(CONFIG, concurrency=4), engines_at(endpoint), load_tokenizer(served_model))
    done, unfinished, begun = cut_in_the_middle(rollout)
    endpoint.post("/update_weight_version", {"new_version": "7", "abort_all_requests": False})
    try:
        rest = list(rollout.generate([], version=7, unfinished=unfinished))
    finally:
        endpoint.post("/update_weight_version", {"new_version": "default", "abort_all_requests": False})
    assert sorted((t.prompt.id, t.index) for t in done + rest) == sorted((p.id, k) for p in PROMPTS for k in range(4))
    for t in (t for t in rest if (t.prompt.id, t.index) in begun):
        before = begun[t.prompt.id, t.index].token_ids
        assert t.token_ids[: len(before)] == before and t.earlier == [Span(0, len(before))] and t.version == 7
    endpoint.post("/flush_cache?timeout=10")


def lengths_of(trajectories) -> list[int]:
    return sorted(len(t.token_ids) for t in trajectories)


def test_what_goes_on_is_as_long_as_if_it_had_never_been_cut(simulate, served_model):
    """The sample is recognised by its tokens, on whichever engine."""
    tokenizer = load_tokenizer(served_model)
    whole = list(Rollout(CONFIG, engines_at(simulate(speed=50)), tokenizer).generate(PROMPTS, 0))
    assert {t.finish for t in whole} == {"stop", "length"} and len(set(lengths_of(whole))) > 20
    asking = Rollout(CONFIG, engines_at(simulate(speed=0.5)), tokenizer).generate(PROMPTS, 0)
    arriving = iter(asking)
    done = [next(arriving) for _ in range(16)]
    asking.stop_early()
    done = [t for t in [*done, *arriving] if t.prompt.id not in asking.cut()]
    assert any(len(t.token_ids) > 1 for u in asking.unfinished for t in u.trajectories if t.finish == "cut")
    done += Rollout(CONFIG, engines_at(simulate(speed=50)), tokenizer).generate([], 0, unfinished=asking.unfinished)
    assert lengths_of(done) == lengths_of(whole)
    assert sorted(t.text[-12:] for t in done) == sorted(t.text[-12:] for t in whole)


def test_it_takes_the_seconds_that_the_plan_says(simulate, planned, served_model):
    engine = simulate(speed=20)
    answers = list(Rollout(CONFIG, engines_at(engine), load_tokenizer(served_model)).generate(PROMPTS[:4], 0))
    figures = engine.get("/figures")
    lengths = tuple(len(t.token_ids) for t in sorted(answers, key=lambda t: (t.prompt.id, t.index)))
    expected = sampling_seconds(replace(planned, prompt=5, shared=4), lengths)
    assert figures["tokens"] == sum(lengths)
    assert figures["decoding_s"] + figures["prefilling_s"] == pytest.approx(expected, rel=0.1)  # they came within some milliseconds


def test_what_has_no_room_waits_and_comes_all_the_same(simulate, served_model):
    """The cache holds three of 48 answers; what it can hold no longer is put back and computed again."""
    engine = simulate(speed=200, room=600)
    answers = list(Rollout(CONFIG, engines_at(engine), load_tokenizer(served_model)).generate(PROMPTS, 0))
    figures = engine.get("/figures")
    assert len(answers) == 48 and figures["tokens"] == sum(lengths_of(answers))
    assert 1 < figures["sequence_s"] / figures["decoding_s"] < 10
