"""OREAL steps: every layout gives the numbers of the reading version, oreal/reference.py."""

import math
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from megatron_oreal.oreal import reference
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.trajectory import Sample, TrainBatch
from tests.settings import optimizer, policy_config, tiny_run

STEPS, FROZEN = 4, 1
WEIGHTS = tuple(f"token_weight/{name}" for name in ("positive", "negative", "mean", "std", "max", "share_zero", "share_one", "effective"))
FIRST = (
    "loss/token_rm",
    "grad_norm/token_rm",
    "token_rm/accuracy",
    "token_rm/auc",
    "token_rm/brier",
    "token_rm/calibration_error",
    *WEIGHTS,
)
COMPARED = (
    *FIRST,
    "policy/entropy",
    "loss/positive",
    "loss/negative",
    "loss/kl",
    "grad_norm/policy",
    "logprob/diff_mean",
    "logprob/diff_max",
    "logprob/kl",
)
COUNTED = ("token_rm/accuracy", "token_rm/auc", "token_rm/calibration_error", "token_weight/share_zero", "token_weight/share_one")
"""Of COMPARED, those that a rounding can move by a whole trajectory or token."""
LAYOUTS = {  # name -> (ranks, parallel config)
    "tp1": (1, {}),
    "tp2": (2, {"tp": 2}),
    "tp2-sp": (2, {"tp": 2, "sequence_parallel": True}),
    "pp2": (2, {"pp": 2}),
    "dp2": (2, {"dp": 2}),
    "cp2": (2, {"cp": 2}),
    "pp2-vpp2": (2, {"pp": 2, "vpp": 2}),
    "tp2-pp2-sp": (4, {"tp": 2, "pp": 2, "sequence_parallel": True}),
    "tp2-cp2-sp": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}),
    "pp2-cp2": (4, {"pp": 2, "cp": 2}),
    "tp2-dp2": (4, {"tp": 2, "dp": 2}),
    "pp2-vpp2-dp2": (4, {"pp": 2, "vpp": 2, "dp": 2}),
    "cp2-dp2": (4, {"cp": 2, "dp": 2}),
}


def make_batches() -> list[TrainBatch]:
    """One right and one wrong sample of each of three questions, for every step, lengths from 3 to 40 tokens."""
    generator = torch.Generator().manual_seed(3)

    def tokens(low, high):
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(1, 97, (length,), generator=generator).tolist()

    def sample(question, reward, pass_rate):
        advantage = (2 * (1 - pass_rate) if reward > 0 else -2 * pass_rate) * 4 / 3
        prompt, response = tokens(3, 12), tokens(3, 30)
        logprobs = (torch.randn(len(response), generator=generator) - math.log(97)).tolist()
        return Sample(f"q{question}", prompt, response, reward, advantage, pass_rate, 0, logprobs if question else [])

    return [TrainBatch([sample(q, r, (q + 1) / 4) for q in range(3) for r in (1, -1)]) for _ in range(STEPS)]


def train_config(model: str, parallel: dict, **objective) -> TrainConfig:
    frozen = FROZEN if objective.get("token_rm", True) else 0
    policy = policy_config(optimizer=optimizer(), freeze_steps=frozen)
    return tiny_run(model, parallel, steps=STEPS, objective=Objective(**{"beta": 0.1, **objective}), policy=policy, record=True)


def train_on_megatron(settings: TrainConfig) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Metrics and token weights of each step, and this stage's weights in Hugging Face form, as seen by this rank."""
    ranks = Ranks(settings.parallel, settings.seed)
    learner = Learner(settings, ranks)
    steps = [learner.train(batch, step) for step, batch in enumerate(make_batches(), 1)]
    metrics = [{**step.metrics, "token_weights": step.token_weights} for step in steps]
    weights = {n: t.clone().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}
    ranks.stop()
    return metrics, weights


def train_plainly(settings: TrainConfig) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The same steps by the reading version, in float32 on the CPU, and figures of them by their definitions."""
    models, history = plain_models(settings), []
    for step, batch in enumerate(make_batches(), 1):
        told = _told(models.token_rm.model, batch.samples, settings.objective)
        sampled = _of_the_policy(models.policy.model, batch.samples, settings.objective.importance_cap) if step > FROZEN else {}
        numbers, weights = reference.update(models, batch.samples, settings.objective, step)
        numbers |= _weight_means(weights, batch.samples) | _weight_statistics(torch.cat(weights).double()) | _calibration(told) | sampled
        history.append({**numbers, "token_weights": [w.tolist() for w in weights]})
    return history, dict(models.policy.model.state_dict())


def plain_models(settings: TrainConfig) -> reference.Models:
    """As a run of these settings has them, with weight decay of everything."""
    policy, frozen, other = (AutoModelForCausalLM.from_pretrained(settings.model.path, dtype=torch.float32) for _ in range(3))

    def learner(model: torch.nn.Module, o: OptimizerConfig) -> reference.Learner:
        adamw = {"weight_decay": o.weight_decay, "betas": tuple(o.betas), "eps": o.eps}
        return reference.Learner(model, o.lr, o.min_lr, settings.steps, o.warmup_steps, o.clip_grad, **adamw)

    token_rm = learner(reference.TokenRM(other.model), settings.token_rm.optimizer)
    return reference.Models(learner(policy, settings.policy.optimizer), token_rm, frozen, settings.policy.freeze_steps)


@torch.no_grad()
def _told(token_rm: reference.TokenRM, samples: list[Sample], objective: Objective) -> list[tuple[float, bool]]:
    """Mean score of each trajectory, whether it is right."""
    return [(reference.response_scores(token_rm, s, objective).mean().item(), s.reward > 0) for s in samples]


@torch.no_grad()
def _of_the_policy(policy: torch.nn.Module, samples: list[Sample], cap: float | None) -> dict[str, float]:
    """Its entropy, and how far it is from the engine's log-probabilities."""
    rows = [policy(torch.tensor([s.prompt_ids + s.response_ids])).logits[0, len(s.prompt_ids) - 1 : -1] for s in samples]
    chances = [torch.distributions.Categorical(logits=row) for row in rows]
    pairs = [(c.log_prob(torch.tensor(s.response_ids)), s.logprobs) for c, s in zip(chances, samples, strict=True) if s.logprobs]
    apart = torch.cat([ours - torch.tensor(theirs) for ours, theirs in pairs])
    return {
        "policy/entropy": torch.cat([c.entropy() for c in chances]).mean().item(),
        "logprob/diff_mean": apart.abs().mean().item(),
        "logprob/diff_max": apart.abs().max().item(),
        "logprob/kl": (apart.exp() - 1 - apart).mean().item(),
        "logprob/capped_share": (apart.exp() > (cap or math.inf)).float().mean().item(),
    }


def _weight_means(weights: list[torch.Tensor], samples: list[Sample]) -> dict[str, float]:
    """Over all tokens of the right, and of the wrong trajectories."""
    right, wrong = (torch.cat([w for w, s in zip(weights, samples, strict=True) if s.reward == reward]) for reward in (1, -1))
    return {"token_weight/positive": right.mean().item(), "token_weight/negative": wrong.mean().item()}


def _weight_statistics(weights: torch.Tensor) -> dict[str, float]:
    """Of the weights in use."""
    return {
        "token_weight/mean": weights.mean().item(),
        "token_weight/std": weights.std(correction=0).item(),
        "token_weight/max": weights.max().item(),
        "token_weight/share_zero": (weights == 0).double().mean().item(),
        "token_weight/share_one": (weights == 1).double().mean().item(),
        "token_weight/effective": (weights.sum() ** 2 / (weights.square().sum() * len(weights))).nan_to_num().item(),
    }


def _calibration(told: list[tuple[float, bool]]) -> dict[str, float]:
    """By the definitions: pairs for the AUC, a loop over ten bins. `told`: mean score of a trajectory, whether it is right."""
    pairs = [(a > b) + (a == b) / 2 for a, right in told if right for b, other in told if not other]
    forecasts = [(1 / (1 + math.exp(-score)), right) for score, right in told]
    bins = [[(p, right) for p, right in forecasts if math.floor(10 * p) == i] for i in range(10)]
    return {
        "token_rm/accuracy": sum((score > 0) == right for score, right in told) / len(told),
        "token_rm/auc": sum(pairs) / len(pairs),
        "token_rm/brier": sum((p - right) ** 2 for p, right in forecasts) / len(told),
        "token_rm/calibration_error": sum(abs(sum(p - right for p, right in inside)) for inside in bins) / len(told),
    }


def assert_same(results: list[tuple], expected: list[dict], weights: dict[str, torch.Tensor], compared: tuple[str, ...], what) -> set[str]:
    """Of each rank what train_on_megatron returned; the names of the weights that one of them had."""
    for metrics, _ in results:
        for step in range(STEPS):
            for key in compared if step >= FROZEN else FIRST:
                assert metrics[step][key] == pytest.approx(expected[step][key], rel=1e-4, abs=1e-6), (what, step, key)
            for recorded, weight in zip(metrics[step]["token_weights"], expected[step]["token_weights"], strict=True):
                assert recorded == pytest.approx(weight, rel=1e-4, abs=2e-5), (what, step)
    for _, stage in results:
        for name, value in stage.items():
            torch.testing.assert_close(torch.from_numpy(value), weights[name], rtol=1e-4, atol=2e-5, msg=f"{what} {name}")
    return set().union(*(stage for _, stage in results))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_layouts_give_the_numbers_of_a_plain_implementation(ranks, tiny_model, tied):
    model = tiny_model("qwen2", tie_word_embeddings=tied)
    cap = None if tied else 1.5
    expected, weights = train_plainly(train_config(model, {}, importance_cap=cap))
    assert tied or 0.05 < expected[-1]["logprob/capped_share"] < 0.95
    for name, (world, parallel) in LAYOUTS.items():
        results = ranks(world, train_on_megatron, train_config(model, parallel, importance_cap=cap))
        seen = assert_same(results, expected, weights, (*COMPARED, "logprob/capped_share"), name)
        assert seen == weights.keys() - ({"lm_head.weight"} if tied else set()), name


def test_the_papers_objective_gives_the_numbers_of_a_plain_implementation(ranks, tiny_model):
    paper = asdict(Objective.paper(rescale="topk", kl="mse")) | {"beta": 0.1}
    expected, weights = train_plainly(train_config(tiny_model("qwen2"), {}, **paper))
    results = ranks(2, train_on_megatron, train_config(tiny_model("qwen2"), {"cp": 2}, **paper))
    assert assert_same(results, expected, weights, COMPARED, "paper") == weights.keys()
