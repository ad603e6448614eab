"""Sampling that ends early: what cannot matter is not sampled, what is cut goes on in the next step, and nothing is lost unseen."""

import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.rollout.answers import Entry
from megatron_oreal.rollout.dispatch import Request, _PendingRequest
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.trajectory import Prompt, Span, Unfinished
from tests.settings import rollout_config

CONFIG = rollout_config(samples=4, top_p=1.0, max_new_tokens=180, max_total_tokens=200, request_timeout_s=60, concurrency=4)


def prompts_of(count: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(2)
    return [Prompt(f"p{i}", "q", "a", torch.randint(3, 500, (5,), generator=generator).tolist()) for i in range(count)]


@pytest.fixture
def rollout(engines, served_model):
    return Rollout(CONFIG, engines, load_tokenizer(served_model))


def test_what_is_cut_is_resumed_under_the_next_version_with_its_logprobs(rollout, server, served_model):
    prompts = prompts_of(40)
    cut = rollout.generate(prompts, version=0)
    arriving = iter(cut)
    done = [next(arriving) for _ in range(16)]  # the first wave, all about as long
    time.sleep(0.3)
    cut.stop_early()  # in the middle of the second one
    done = [t for t in [*done, *arriving] if t.prompt.id not in cut.cut()]  # what ended of a cut question is given out again
    partial = [t for u in cut.unfinished for t in u.trajectories]
    assert {t.prompt.id for t in done} | {u.prompt.id for u in cut.unfinished} == {p.id for p in prompts}
    assert len({t.prompt.id for t in done}) + len(cut.unfinished) == 40
    begun = [t for t in partial if t.finish == "cut" and t.token_ids]
    assert begun, "nothing was in the middle of its answer; the test has nothing to look at"

    server.endpoint.post("/update_weight_version", {"new_version": "7", "abort_all_requests": False})  # the same weights, for comparison
    try:
        resumed = list(rollout.generate([], version=7, unfinished=cut.unfinished))
    finally:
        server.endpoint.post("/update_weight_version", {"new_version": "default", "abort_all_requests": False})
    assert sorted((t.prompt.id, t.index) for t in done + resumed) == sorted((p.id, k) for p in prompts for k in range(4))
    by_name = {(t.prompt.id, t.index): t for t in resumed}
    model = AutoModelForCausalLM.from_pretrained(served_model, dtype=torch.float32)
    for t in begun:
        whole = by_name[t.prompt.id, t.index]
        assert whole.token_ids[: len(t.token_ids)] == t.token_ids
        assert whole.earlier == [Span(0, len(t.token_ids))] and whole.version == 7
        answered = whole.token_ids if whole.finish == "length" else whole.token_ids[:-1]
        assert t.text == "" and whole.text == rollout._tokenizer.decode(answered, skip_special_tokens=True)
        assert whole.finish in ("stop", "length", "abort")
        ids = torch.tensor([whole.prompt.token_ids + whole.token_ids])
        with torch.no_grad():
            dense = model(ids).logits[0, len(whole.prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = dense.gather(1, torch.tensor(whole.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(whole.logprobs), expected, rtol=0, atol=1e-4)
    for t in (t for t in partial if t.finish != "cut"):
        assert by_name[t.prompt.id, t.index] == t  # had ended before the cut


def test_the_engine_stops_at_once(rollout, server):
    sampling = rollout.generate(prompts_of(400), version=0)
    arriving = iter(sampling)
    next(arriving)
    stopped = time.monotonic()
    sampling.stop_early()
    left = sum(1 for _ in arriving)
    assert time.monotonic() - stopped < 5
    assert left < 4 * 300 and len(sampling.unfinished) > 100
    server.endpoint.post("/flush_cache?timeout=10")  # refused as long as requests are waiting or running


def test_samples_of_one_question_share_its_prompt(server):
    """One request with n samples: the prompt is computed once, the other samples find it in the prefix cache."""
    server.endpoint.post("/flush_cache?timeout=10")
    body = {"input_ids": list(range(5, 105)), "sampling_params": {"n": 4, "max_new_tokens": 2, "temperature": 1.0}}
    answers = server.endpoint.post("/generate", body)
    cached = [answer["meta_info"]["cached_tokens"] for answer in answers]
    assert all(tokens >= 90 for tokens in cached), cached


def test_what_is_cut_with_its_last_token_is_not_asked_for_more(rollout):
    """An engine that is asked for no token at all gives an answer that is none."""
    prompt, sampling = prompts_of(1)[0], Sampling(4, 1.0, 1.0, 10)
    meta = {"finish_reason": {"type": "abort"}}
    for tokens, finish in ((9, "cut"), (10, "length")):
        answer = {"output_ids": [5] * tokens, "meta_info": meta | {"output_token_logprobs": [Entry(-1.0)] * tokens}}
        trajectory = rollout.trajectory(Unfinished(prompt, []), 0, 1, answer, sampling)
        assert trajectory.finish == finish
        rest = rollout.requests(Unfinished(prompt, [trajectory]), sampling, 1)
        assert [r.body["sampling_params"][0]["max_new_tokens"] for r in rest if r.samples == [0]] == [1] * (finish == "cut")
        assert [r.samples for r in rest if r.samples != [0]] == [[1, 2, 3]]  # never came


def test_of_what_goes_on_together_an_engine_that_is_lost_leaves_what_it_still_owes():
    ended = []
    body = {"input_ids": [[1, 2], [1, 2, 3], [1]], "sampling_params": [{"max_new_tokens": n} for n in (7, 6, 8)], "return_logprob": True}
    pending = _PendingRequest(Request(body, [4, 0, 9]), lambda sample, answer: ended.append(sample))
    assert [parameters["max_new_tokens"] for parameters in pending.body["sampling_params"]] == [7, 6, 8]
    pending.take({"index": 1})
    with pytest.raises(ValueError, match="sample 1 came twice"):
        pending.take({"index": 1})
    assert ended == [0] and pending.rest.samples == [4, 9]
    assert pending.rest.body["input_ids"] == [[1, 2], [1]] and pending.rest.body["return_logprob"]
    assert [parameters["max_new_tokens"] for parameters in pending.rest.body["sampling_params"]] == [7, 8]
