"""rollout.keep_cache: what was cut goes on under new weights with the keys and values that the old ones made, in a real engine."""

import time
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import Origin, WeightSender
from megatron_oreal.trajectory import Prompt, Span, Trajectory, Unfinished
from tests.settings import engines_at, rollout_config
from tests.sync.hand_over import hand_over

CONFIG = rollout_config(in_flight=2, keep_cache=True, max_new_tokens=180, max_total_tokens=200, sync_timeout_s=60, sync_bucket_mb=1)
PROMPTS = [Prompt(f"p{n}", "q", "a", [7, 8, 9, 10, 20 + n]) for n in range(16)]
FEW = 4
"""Tokens that a version makes of an answer, at least."""
GREEDY = Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=180)
"""One of each question: more were the same, and found each other's keys and values."""


@pytest.fixture
def publish(server, served_model, tiny_model, tmp_path):
    """publish(folder, version): as between two steps."""
    sender = WeightSender(
        [server.endpoint],
        CONFIG,
        Origin("test", torch.device("cpu"), TicketLock(dist.HashStore()), tmp_path / "sync", Path(served_model), 2),
    )

    yield partial(hand_over, sender)
    hand_over(sender, served_model, 90)  # as other tests want it
    server.endpoint.post("/flush_cache")
    sender.disconnect()


@pytest.mark.parametrize("sleeps", [False, True])
def test_an_answer_goes_on_with_what_older_weights_made_of_it(server, served_model, tiny_model, publish, sleeps):
    """Tokens and log-probabilities are those of transformers with the older model's keys and values, through two publications."""
    new_model = tiny_model(seed=9, tokenizer=True, vocab_size=520, tie_word_embeddings=True)
    engines = engines_at(server.endpoint, in_flight=2, keep_cache=True)
    rollout = Rollout(CONFIG, engines, load_tokenizer(served_model))
    begun = _cut(rollout, PROMPTS, 0)
    for version, folder in ((1, new_model), (2, served_model)):
        if sleeps:
            engines.sleep()
            engines.wake()
        publish(folder, version)
        if version == 1:
            begun = _cut(rollout, [], version, begun)
    rollout.retry_counts.taken()
    ended = list(rollout.generate([], 2, GREEDY, unfinished=begun))
    counts = rollout.retry_counts.taken()
    assert counts.resumed - counts.resumed_cached == len(PROMPTS)  # of each the last token, which nothing has followed yet
    models = {n: _model(folder) for n, folder in enumerate((served_model, new_model, served_model))}
    assert len(ended) == len(PROMPTS) * GREEDY.samples
    for trajectory in ended:
        assert {span.version for span in trajectory.earlier} == {0, 1} and trajectory.version == 2
        _is_greedy(trajectory, models, kept=True)
        with pytest.raises(AssertionError):
            _is_greedy(trajectory, models, kept=False)
    assert rollout.homes == {}


def test_nothing_else_is_taken_from_what_older_weights_made(server, served_model, tiny_model, publish):
    """The same prompt, asked anew under other weights, as an evaluation does."""
    new_model = tiny_model(seed=9, tokenizer=True, vocab_size=520, tie_word_embeddings=True)
    rollout = Rollout(CONFIG, engines_at(server.endpoint, in_flight=2, keep_cache=True), load_tokenizer(served_model))
    for version, folder in ((0, served_model), (3, new_model)):
        if version:
            publish(folder, version)
        for trajectory in rollout.generate(PROMPTS[:1], version, GREEDY):
            _is_greedy(trajectory, {version: _model(folder)}, kept=False)


def _model(folder: str):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def _cut(rollout: Rollout, prompts: list[Prompt], version: int, unfinished: list[Unfinished] = ()) -> list[Unfinished]:
    """What there is of them after some tokens more of each, cut at least once."""
    left = [*unfinished, *(Unfinished(prompt, []) for prompt in prompts)]
    before = _lengths(left)
    while any(now < before.get(which, 0) + FEW for which, now in _lengths(left).items()) or not _lengths(left):
        sampling = rollout.generate([], version, GREEDY, left)
        sampling.begin()
        time.sleep(0.05)
        left = sampling.cut_all()
        assert len(left) == len(PROMPTS), "sampled to the end before it could be cut"
        assert all(t.finish == "cut" for one in left for t in one.trajectories), "sampled to the end before it could be cut"
    assert set(rollout.homes) == {one.prompt.id for one in left}
    return left


def _lengths(left: list[Unfinished]) -> dict[tuple[str, int], int]:
    return {(one.prompt.id, t.index): len(t.token_ids) for one in left for t in one.trajectories}


def _is_greedy(trajectory: Trajectory, models: dict, kept: bool) -> None:
    """Each version's tokens are the likeliest by its model, after keys and values as they were made, or (not `kept`) made anew by it."""
    before, logits, cache = list(trajectory.prompt.token_ids), [], None
    spans = [*trajectory.earlier, Span(trajectory.version, len(trajectory.token_ids) - sum(s.tokens for s in trajectory.earlier))]
    ends = [0, *accumulate(span.tokens for span in spans)]
    for span, (first, last) in zip(spans, pairwise(ends), strict=True):
        model, own = models[span.version], trajectory.token_ids[first:last]
        cached = cache.get_seq_length() if kept and cache is not None else 0
        with torch.no_grad():
            out = model(torch.tensor([[*before, *own][cached:-1]]), past_key_values=cache if kept else None, use_cache=True)
        logits.append(out.logits[0, -len(own) :])
        before, cache = [*before, *own], out.past_key_values
    logprobs = torch.cat(logits).log_softmax(-1)
    assert logprobs.argmax(-1).tolist() == trajectory.token_ids
    torch.testing.assert_close(torch.tensor(trajectory.logprobs), logprobs.amax(-1), rtol=0, atol=1e-4)
