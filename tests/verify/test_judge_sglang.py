"""A real SGLang server as the judge. Its model has random weights: what it says is no verdict, and must not become one."""

import pytest

from megatron_oreal.engines.server import Server
from megatron_oreal.errors import ServerError
from megatron_oreal.trajectory import Prompt, Trajectory
from megatron_oreal.verify import Verifier, VerifyConfig
from tests.settings import judge_config, rollout_config, verify_config


@pytest.fixture(scope="module")
def judge(tiny_model, tmp_path_factory):
    """The session's server has no room for the judge's prompt: some 700 tokens of the demo's tokenizer."""
    model = tiny_model(tokenizer=True, vocab_size=520, max_position_embeddings=2048)
    config = rollout_config(max_new_tokens=64, max_total_tokens=2047, ready_timeout_s=400)
    with Server(config, model, "float32", tmp_path_factory.mktemp("judge")) as running:
        running.wait_ready()
        yield running.endpoint, model


def settings(judge, key_file: str | None, **more) -> VerifyConfig:
    endpoint, model = judge
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
