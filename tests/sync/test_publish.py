"""Trained weights from Megatron ranks into real engines: there, Megatron and transformers must agree."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.config import TrainConfig
from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.engines.server import Server
from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.model.split import Split
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.sync.publisher import Publisher
from megatron_oreal.trajectory import Prompt, Sample, TrainBatch
from tests.settings import engines_at, optimizer_config, parallel_config, policy_config, rollout_config, tiny_run, write_hf

PROMPTS = [Prompt("a", "q", "a", [7, 8, 9, 10]), Prompt("b", "q", "a", [300, 20])]
SAMPLES = [Sample("a", [5, 6, 7], [8, 9, 10, 11], r, r * 0.5, 0.5, 0) for r in (1, -1)]
TP2 = {"tp": 2, "sequence_parallel": True}
LAYOUTS = {"dp2": {"dp": 2}, "tp2": TP2, "tp2-pp2": TP2 | {"pp": 2}, "pp4": {"pp": 4}}


def settings(model: str, run_dir: str, parallel: dict, way: str) -> TrainConfig:
    return tiny_run(
        model,
        parallel,
        run_dir=run_dir,
        steps=3,
        rollout=rollout_config(max_new_tokens=24, max_total_tokens=60, sync=way, sync_timeout_s=60, sync_bucket_mb=1),
        objective=Objective(token_rm=False),
        policy=policy_config(optimizer=optimizer_config(lr=0.05, min_lr=0.0, warmup_steps=0), freeze_steps=0),
    )


def train_and_publish(run: TrainConfig, endpoints, version: int, steps: int) -> float:
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    for step in range(1, steps + 1):
        learner.train(TrainBatch(SAMPLES), step)
    engines = engines_at(*endpoints) if ranks.conducts else None
    with Publisher(run, learner.models, ranks, engines) as publisher:
        seconds = publisher.publish(learner.policy.gpt, version)["time/sync"]
    write_hf(learner.policy.gpt, learner.models, run.run_dir, ranks, timeout_s=600)
    ranks.stop()
    return seconds


def megatron_logprobs(run: TrainConfig, samples: list[Sample]):
    """Of each sample's response, by a Megatron policy with the weights of run.model.path (last stage only)."""
    ranks = Ranks(run.parallel, run.seed)
    policy = Learner(run, ranks).policy.gpt
    micro = [batch.pack([s], i, Split(), "previous", torch.device("cpu")) for i, s in enumerate(samples)]
    values = pipeline.run(policy, micro, "logprobs", lambda _, out: (None, out[0]), backward=False)
    ranks.stop()
    return [v.tolist() for v in values]


@pytest.fixture(scope="module")
def endpoints(server, served_model, tmp_path_factory):
    """The session's engine, and one of two ranks."""
    settings = rollout_config(max_new_tokens=64, max_total_tokens=200, ready_timeout_s=400, tp=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # as in a rank that torchrun started
        second = Server(settings, served_model, "float32", tmp_path_factory.mktemp("server"), number=1)
    with second:
        second.wait_ready()
        yield tuple(dataclasses.replace(one.endpoint, number=None) for one in (server, second))  # as engines that somebody else started


CASES = [("dp2", "distributed"), ("tp2", "tensor"), ("tp2-pp2", "distributed")]
CASES += [("tp2-pp2", "tensor"), ("pp4", "tensor"), ("tp2-pp2", "disk")]


@pytest.mark.parametrize(("layout", "way"), CASES)
def test_after_a_step_and_a_sync_engines_megatron_and_transformers_agree(ranks, endpoints, served_model, restored, tmp_path, layout, way):
    run = settings(served_model, str(tmp_path), LAYOUTS[layout], way)
    ranks(4 if "pp" in layout else 2, train_and_publish, run, endpoints, 11, 1)
    new, old = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (tmp_path / "hf", served_model))
    trained = dataclasses.replace(run, model=ModelConfig(str(tmp_path / "hf"), "float32"), parallel=parallel_config(tp=2))
    for endpoint in endpoints:
        assert endpoint.get("/model_info")["weight_version"] == "11"
        rollout = Rollout(run.rollout, engines_at(endpoint), load_tokenizer(served_model))
        trajectories = list(rollout.generate(PROMPTS, 11, Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=12)))
        for trajectory in trajectories:
            ids = torch.tensor([trajectory.prompt.token_ids + trajectory.token_ids])
            with torch.no_grad():
                logprobs, before = (m(ids).logits[0, len(trajectory.prompt.token_ids) - 1 : -1].log_softmax(-1) for m in (new, old))
            assert logprobs.argmax(-1).tolist() == trajectory.token_ids
            assert (logprobs - before).abs().max() > 0.01, "the step changed nothing; the test would not notice a missing sync"
            torch.testing.assert_close(torch.tensor(trajectory.logprobs), logprobs.amax(-1), rtol=0, atol=1e-4)
    samples = [Sample("", t.prompt.token_ids, t.token_ids, 1, 0.0, 0.5, 0) for t in trajectories]
    by_megatron = ranks(2, megatron_logprobs, trained, samples)[-1]
    for trajectory, megatron in zip(trajectories, by_megatron, strict=True):
        torch.testing.assert_close(torch.tensor(megatron), torch.tensor(trajectory.logprobs), rtol=0, atol=1e-4)
