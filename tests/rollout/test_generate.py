"""Sampling from a real server: what comes back is what transformers computes, whole, as it finishes."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.data.tokenizer import load_tokenizer, stop_token
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import EnginesGone
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.trajectory import Prompt
from tests.settings import engines_at, rollout_config

CONFIG = rollout_config(samples=4, top_p=1.0, max_new_tokens=24, max_total_tokens=60, request_timeout_s=60)


def prompts_of(count: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    return [Prompt(f"p{i}", "q", "a", torch.randint(3, 500, (4 + i,), generator=generator).tolist()) for i in range(count)]


@pytest.fixture(scope="module")
def rollout(engines, served_model):
    return Rollout(CONFIG, engines, load_tokenizer(served_model))


def test_samples_are_whole_and_their_logprobs_are_those_of_transformers(rollout, served_model):
    trajectories = list(rollout.generate(prompts_of(6), version=0))
    assert sorted((t.prompt.id, t.index) for t in trajectories) == [(f"p{i}", k) for i in range(6) for k in range(4)]
    assert len({tuple(t.token_ids) for t in trajectories}) > 12
    model = AutoModelForCausalLM.from_pretrained(served_model, dtype=torch.float32)
    stop = stop_token(rollout._tokenizer, CONFIG.stop_word)
    for t in trajectories:
        assert len(t.token_ids) == len(t.logprobs) <= 24
        assert t.complete == (t.token_ids[-1] == stop)
        assert t.complete or (t.finish == "length" and len(t.token_ids) == 24)
        ids = torch.tensor([t.prompt.token_ids + t.token_ids])
        with torch.no_grad():
            dense = model(ids).logits[0, len(t.prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = dense.gather(1, torch.tensor(t.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(t.logprobs), expected, rtol=0, atol=1e-4)


def test_greedy_is_what_transformers_does(rollout, served_model):
    model = AutoModelForCausalLM.from_pretrained(served_model, dtype=torch.float32)
    stop = stop_token(rollout._tokenizer, CONFIG.stop_word)
    for t in rollout.generate(prompts_of(3), 0, Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=12)):
        ids = torch.tensor([t.prompt.token_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=stop)
        assert t.token_ids == expected[0, ids.shape[1] :].tolist()


def test_the_stop_word_is_a_token_of_the_answer_but_not_of_its_text(rollout):
    complete = [t for t in rollout.generate(prompts_of(12), 0, Sampling(16, 1.0, 1.0, 40)) if t.complete]
    assert complete, "none of 192 random answers stopped; the test has nothing to look at"
    assert all(CONFIG.stop_word not in t.text for t in complete)


def test_answers_arrive_while_others_are_still_being_sampled(rollout):
    slow_server = Sampling(samples=16, temperature=1.0, top_p=1.0, max_new_tokens=40)
    narrow = Rollout(rollout_config(concurrency=1, max_new_tokens=40, max_total_tokens=60), rollout.engines, rollout._tokenizer)
    arrivals = iter(narrow.generate(prompts_of(8), 0, slow_server))
    assert next(arrivals).prompt.id == "p0"  # with one question at a time the last has not even been asked yet
    assert sum(1 for _ in arrivals) == 8 * 16 - 1


def test_samples_of_one_question_arrive_as_each_ends(rollout):
    """All begin together and go on token by token: the shortest comes first, whatever its number."""
    roomy = Rollout(rollout_config(max_new_tokens=180, max_total_tokens=200), rollout.engines, rollout._tokenizer)
    # So hot that every token is about as likely, the stop word too.
    arrivals = list(roomy.generate(prompts_of(1), 0, Sampling(samples=16, temperature=50.0, top_p=1.0, max_new_tokens=180)))
    lengths = [len(t.token_ids) for t in arrivals]
    assert max(lengths) - min(lengths) > 10, "all samples are about as long; the test has nothing to look at"
    assert lengths[0] < min(lengths) + 4 and lengths[-1] > max(lengths) - 4
    assert [t.index for t in arrivals] != list(range(16))


def test_the_length_limit_counts_the_prompt(rollout):
    long = Prompt("long", "q", "a", [5] * 58)
    assert all(len(t.token_ids) <= 2 for t in rollout.generate([long], 0))
    with pytest.raises(ValueError, match="prompt full: 60 tokens leave no room"):
        list(rollout.generate([Prompt("full", "q", "a", [5] * 60)], 0))


def test_a_refusing_or_absent_server_is_one_clear_error(rollout):
    believes_in_more = Rollout(rollout_config(max_new_tokens=24, max_total_tokens=1000), rollout.engines, rollout._tokenizer)
    with pytest.raises(ServerError, match=r"/generate: status 400 for prompt bad"):
        list(believes_in_more.generate([Prompt("bad", "q", "a", [5] * 300)], 0))  # the server's context is 201 tokens
    nobody = Rollout(CONFIG, engines_at(Endpoint("http://127.0.0.1:9"), ready_timeout_s=1), rollout._tokenizer)
    with pytest.raises(EnginesGone, match=r"no engine is left \(http://127\.0\.0\.1:9: 3 failures in a row, the last one: .*/generate: "):
        list(nobody.generate(prompts_of(1), 0))
    assert (nobody.retry_counts.retries, nobody.retry_counts.moved, nobody.engines.lost) == (2, 4, 1)


def test_an_answer_that_another_end_token_ends_is_not_complete(engines, served_model):
    tokenizer = load_tokenizer(served_model)
    config = rollout_config(max_new_tokens=40, max_total_tokens=60, stop_word=tokenizer.pad_token)  # the server also stops at its own
    answers = list(Rollout(config, engines, tokenizer).generate(prompts_of(12), 0, Sampling(16, 1.0, 1.0, 40)))
    by_other = [t for t in answers if t.token_ids[-1] == tokenizer.eos_token_id]
    assert by_other and not any(t.complete for t in by_other)
    assert all(t.complete == (t.token_ids[-1] == tokenizer.pad_token_id) for t in answers)


def test_who_stops_listening_stops_the_sampling(engines, server, served_model):
    config = rollout_config(max_new_tokens=180, max_total_tokens=200, concurrency=4)
    threads = threading.active_count()
    arriving = iter(Rollout(config, engines, load_tokenizer(served_model)).generate(prompts_of(12) * 20, 0))
    next(arriving)
    arriving.close()
    assert threading.active_count() == threads  # nobody is left to ask the other questions
    server.endpoint.post("/flush_cache?timeout=10")  # refused as long as requests are waiting or running
