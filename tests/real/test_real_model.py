"""A pretrained model with its own tokenizer, chat template and generation_config: weights, log-probabilities, an engine's answers."""

from pathlib import Path

import pytest
import torch

from megatron_oreal.data.tokenizer import load_tokenizer, stop_token
from megatron_oreal.engines.engines import open_engines
from megatron_oreal.learn import batch, pipeline
from megatron_oreal.learn.packing import partition
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.trajectory import Sample, Trajectory
from tests.convert.test_round_trip import to_hf, to_megatron
from tests.real.plain import CLOSE, load, of_tokens, table
from tests.settings import compute_config, parallel_config, rollout_config

pytestmark = pytest.mark.real
NEW_TOKENS = 64
NEAR_TIE = 0.02
"""Between the two best log-probabilities: closer than that either may come first, as the last bits of two implementations differ."""


def test_every_weight_comes_back(real_model, tmp_path):
    assert to_megatron(str(real_model), tmp_path / "megatron", tp=2, pp=2) == 0
    assert to_hf(tmp_path / "megatron" / "release", tmp_path / "hf", "--hf-config", str(real_model)) == 0
    before, after = HFFolder(str(real_model)), HFFolder(str(tmp_path / "hf"))
    assert set(before) == set(after)
    assert all(torch.equal(before[name][:], after[name][:]) for name in before)


def logprobs(model: str, samples: list[Sample], layout: dict) -> tuple[list[int], list]:
    """Of the responses, by Megatron on the last stage; in which order the samples came."""
    parallel = parallel_config(**layout)
    ranks = Ranks(parallel, seed=0)
    models = Models(ModelConfig(model, "float32"), parallel, compute_config(), ranks)
    micro = batch.of_rank(samples, ranks, parallel, 2048, models.cost, 1, score_position="previous")
    values = pipeline.run(models.build("policy"), micro, "logprobs", lambda _, out: (None, out[0]), backward=False)
    ranks.stop()
    order = [s for indices in partition([s.length for s in samples], 1, 2048, models.cost)[0] for s in indices]
    return order, [value.numpy() for value in values]


@pytest.fixture(scope="module")
def plain(real_model):
    """The model in transformers, float32."""
    return load(real_model)


@pytest.fixture(scope="module")
def answers(real_model, prompts, tmp_path_factory) -> dict[str, list[Trajectory]]:
    """Greedy, sampled, and almost random ones of an engine that was started with nothing but the defaults."""
    config, run_dir = rollout_config(max_new_tokens=NEW_TOKENS, max_total_tokens=512), tmp_path_factory.mktemp("engine")
    ways = {
        "greedy": Sampling(1, 0.0, 1.0, NEW_TOKENS),
        "sampled": Sampling(1, config.temperature, config.top_p, NEW_TOKENS),
        "random": Sampling(1, 5.0, 1.0, NEW_TOKENS // 4),
    }
    with open_engines(config, str(real_model), "float32", run_dir) as engines:
        engines.wait_ready()
        rollout = Rollout(config, engines, load_tokenizer(str(real_model)))
        said = {way: list(rollout.generate(prompts, 0, sampling)) for way, sampling in ways.items()}
    return {way: sorted(trajectories, key=lambda trajectory: trajectory.prompt.id) for way, trajectories in said.items()}


@pytest.fixture
def greedy(answers) -> list[Trajectory]:
    return answers["greedy"]


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"pp": 2}], ids=["tp1", "tp2", "pp2"])
def test_megatron_computes_what_transformers_does(ranks, real_model, prompts, greedy, plain, layout):
    samples = [Sample(t.prompt.id, t.prompt.token_ids, t.token_ids, 1, 0.0, 0.5, 0) for t in greedy]
    order, values = ranks(layout.get("tp", 1) * layout.get("pp", 1), logprobs, str(real_model), samples, layout)[-1]
    expected = torch.cat([of_tokens(table(plain, greedy[i]), greedy[i]) for i in order])
    got = torch.cat([torch.from_numpy(value) for value in values])
    torch.testing.assert_close(got, expected, rtol=0, atol=CLOSE)


def test_the_engine_answers_as_transformers_would(greedy, plain):
    """Token by token the best one, up to near ties: the folder's generation_config (a repetition_penalty of 1.1) changes nothing."""
    for trajectory in greedy:
        logprobs = table(plain, trajectory)
        behind = logprobs.amax(-1) - of_tokens(logprobs, trajectory)
        assert float(behind.max()) < NEAR_TIE, (trajectory.prompt.id, int(behind.argmax()))


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_the_engine_samples_from_what_transformers_computes(answers, plain, way):
    """The plain model's log-probabilities: SGLang applies penalties to the logits that it samples from and takes these from."""
    assert len(answers[way]) == 4
    for trajectory in answers[way]:
        expected = of_tokens(table(plain, trajectory), trajectory)
        torch.testing.assert_close(torch.tensor(trajectory.logprobs), expected, rtol=0, atol=CLOSE)


def test_no_default_of_the_model_cuts_the_vocabulary(answers, plain):
    """As generation_config's top_k of 20 would, of which neither greedy answers nor log-probabilities know."""
    for trajectory in answers["random"]:
        logprobs = table(plain, trajectory)
        better = (logprobs > of_tokens(logprobs, trajectory)[:, None]).sum(-1)
        assert int(better.max()) > 20, trajectory.prompt.id


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_an_answer_ends_with_the_stop_word_and_prompts_are_the_chat_templates(real_model: Path, is_tiny, prompts, answers, way):
    tokenizer = load_tokenizer(str(real_model))
    stop = stop_token(tokenizer, rollout_config().stop_word)
    for prompt, trajectory in zip(prompts, answers[way], strict=True):
        text = tokenizer.decode(prompt.token_ids)
        assert text.count("<|im_start|>") == 3 and text.endswith("<|im_start|>assistant\n") and prompt.question in text
        assert trajectory.complete == (trajectory.token_ids[-1] == stop) and stop not in trajectory.token_ids[:-1]
        assert len(trajectory.token_ids) == NEW_TOKENS or trajectory.complete
    assert is_tiny or any(trajectory.complete for trajectory in answers[way])
