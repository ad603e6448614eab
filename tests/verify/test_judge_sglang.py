"""A real SGLang server as the judge. Its model has random weights: what it says is no verdict, and must not become one.

Its generation_config.json recommends what would change every answer.
"""

import asyncio
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.data.tokenizer import load_tokenizer, stop_token
from megatron_oreal.engines.server import Server
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.trajectory import Prompt, Trajectory
from megatron_oreal.verify import Verifier, VerifyConfig
from megatron_oreal.verify.judge.hosts import Hosts
from tests.settings import engines_at, judge_config, rollout_config, verify_config

RECOMMENDED = {"repetition_penalty": 1.5, "top_k": 1, "temperature": 0.01, "top_p": 0.01, "min_p": 0.9, "do_sample": True}


@pytest.fixture(scope="module")
def judge(tiny_model, tmp_path_factory):
    """The session's server has no room for the judge's prompt: some 700 tokens of the demo's tokenizer."""
    made = tiny_model(tokenizer=True, vocab_size=520, max_position_embeddings=2048)
    model = shutil.copytree(made, tmp_path_factory.mktemp("model") / "judge")
    (model / "generation_config.json").write_text(json.dumps(RECOMMENDED))
    judges = {"skip-tokenizer-init": False}  # our engines are never given text
    config = rollout_config(max_new_tokens=64, max_total_tokens=2047, ready_timeout_s=400, server_args=judges)
    with Server(config, str(model), "float32", tmp_path_factory.mktemp("judge")) as running:
        running.wait_ready()
        yield running.endpoint, str(model), made


def settings(judge, key_file: str | None, **more) -> VerifyConfig:
    endpoint, model, _ = judge
    asked = judge_config(
        urls=[endpoint.url], model=model, key_file=key_file, max_tokens=24, timeout_s=60, attempts=2, backoff_s=0.1, **more
    )
    return verify_config(mode="rule_then_judge", workers=1, judge=asked)


def answers(count: int, length: int = 1) -> list[Trajectory]:
    prompt = Prompt("p", "What is 2+3?", "5", [1])
    return [Trajectory(prompt, i, [1], [0.0], rf"so \boxed{{{'7 + ' * length}{i}}}", "stop", 0) for i in range(count)]


def test_nonsense_is_undecided_and_counted(judge, tmp_path):
    key = tmp_path / "key"
    key.write_text(judge[0].key)
    with Verifier(settings(judge, str(key))) as verifier:
        (group,) = verifier.verify(answers(6), 6)
        counts = verifier.tally.requests
    assert group.rewards == [1 if v.reason == "equal" else 0 for v in group.verdicts]
    assert {v.reason for v in group.verdicts} <= {"judge: unclear", "equal"}
    assert (counts.requests, counts.failures, counts.unclear) == (12, 0, 12)


def test_a_prompt_beyond_its_context_is_refused_once(judge, tmp_path):
    key = tmp_path / "key"
    key.write_text(judge[0].key)
    prompt = Prompt("p", "What is 2+3? " * 500, "5", [1])
    with Verifier(settings(judge, str(key))) as verifier:
        (group,) = verifier.verify([Trajectory(prompt, 0, [1], [0.0], r"\boxed{7}", "stop", 0)], 1)
        assert verifier.tally.requests.requests == 1
    assert group.verdicts[0].reason == "judge: refused, status 400" and group.pass_rate is None


def test_it_wants_its_key(judge):
    with pytest.raises(ServerError, match=r"verify.judge.urls: no host answers /v1/models \(.*: status 401\)"):
        Verifier(settings(judge, None, start_timeout_s=30))


def greedy(made: str, prompt: list[int], length: int, stop: int) -> list[int]:
    """What transformers computes from the folder without a recommendation."""
    model, ids = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32), torch.tensor([prompt])
    options = {"max_new_tokens": length, "do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def test_what_generation_config_recommends_changes_no_reply(judge):
    endpoint, model, made = judge
    tokenizer = load_tokenizer(model)
    asked = [{"role": "user", "content": "What is 2+3?"}]
    prompt = tokenizer.encode(tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False), add_special_tokens=False)
    config = judge_config(urls=[endpoint.url], model=model, max_tokens=40, timeout_s=60)

    async def replies() -> list[str]:
        hosts = Hosts(config, endpoint.key)
        try:
            body = {"model": model, "messages": asked, "temperature": 0.0, "max_tokens": 40}
            (host,) = hosts._hosts
            plain = await hosts._json("POST", f"{host.url}/v1/chat/completions", 60, body)
            whole = await hosts._completion(host, body)
            return [one["choices"][0]["message"]["content"] for one in (plain, whole)]
        finally:
            await hosts.close()

    recommended, ours = asyncio.run(replies())
    expected = tokenizer.decode(greedy(made, prompt, 40, tokenizer.eos_token_id), skip_special_tokens=True)
    assert ours == expected and recommended != expected


def test_what_generation_config_recommends_changes_no_trajectory(judge):
    endpoint, model, made = judge
    config, tokenizer = rollout_config(samples=8, top_p=1.0, max_new_tokens=24, max_total_tokens=60), load_tokenizer(model)
    rollout, prompt = Rollout(config, engines_at(endpoint), tokenizer), Prompt("p", "q", "a", [5, 9, 5, 9, 300, 21])
    (one,) = rollout.generate([prompt], 0, Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=24))
    assert one.token_ids == greedy(made, prompt.token_ids, 24, stop_token(tokenizer, config.stop_word))
    sampled = list(rollout.generate([prompt], 0))
    assert len({tuple(t.token_ids) for t in sampled}) > 4
    model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    for t in sampled:
        with torch.no_grad():
            dense = model(torch.tensor([t.prompt.token_ids + t.token_ids])).logits[0, len(t.prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = dense.gather(1, torch.tensor(t.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(t.logprobs), expected, rtol=0, atol=1e-4)
