"""OREAL steps: every layout gives the numbers of a plain transformers + torch.optim implementation of the spec."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
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
    return tiny_run(model, parallel, steps=STEPS, objective=Objective(beta=0.1, **objective), policy=policy, record=True)


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
    """The spec, `released` preset, written with transformers, torch.optim and loops; independent of megatron_oreal.oreal."""
    policy, rm, ref = (AutoModelForCausalLM.from_pretrained(settings.model.path, dtype=torch.float32) for _ in range(3))
    head = torch.nn.Parameter(torch.zeros(1, policy.config.hidden_size))
    rm_parameters = [*rm.model.parameters(), head]
    learners = {"policy": (list(policy.parameters()), settings.policy.optimizer), "rm": (rm_parameters, settings.token_rm.optimizer)}
    adam = {name: _adamw(parameters, options) for name, (parameters, options) in learners.items()}
    history = []
    for step, batch in enumerate(make_batches()):
        for name, (_, options) in learners.items():
            for group in adam[name].param_groups:
                group["lr"] = _lr(step + 1, options)
            adam[name].zero_grad()
        numbers, weights, told = {}, [], []
        loss = 0.0
        for s in batch.samples:
            ids = torch.tensor([s.prompt_ids + s.response_ids])
            hidden = rm.model(ids).last_hidden_state[0]
            score = (hidden @ head.t())[len(s.prompt_ids) - 1 : -1, 0]
            label = torch.tensor(1.0 if s.reward > 0 else 0.0)
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(score.mean(), label) / len(batch.samples)
            told.append((score.mean().item(), s.reward > 0))
            q = torch.stack([score[: t + 1].mean() for t in range(len(score))]).sigmoid().detach()
            weights.append(((q if s.reward > 0 else 1 - q) * 2 - 1).clamp(0, 1))
        loss.backward()
        numbers["loss/token_rm"] = loss.item()
        numbers["grad_norm/token_rm"] = torch.nn.utils.clip_grad_norm_(rm_parameters, 1.0).item()
        adam["rm"].step()
        numbers["token_weights"] = [w.tolist() for w in weights]
        right = sum(len(s.response_ids) for s in batch.samples if s.reward > 0)
        wrong = sum(len(s.response_ids) for s in batch.samples if s.reward < 0)
        for kind, sign, tokens in (("positive", 1, right), ("negative", -1, wrong)):
            numbers[f"token_weight/{kind}"] = (
                sum(w.sum().item() for w, s in zip(weights, batch.samples, strict=True) if s.reward == sign) / tokens
            )
        numbers |= _weight_statistics(torch.cat(weights).double()) | _calibration(told)
        if step >= FROZEN:
            positive = negative = kl = 0.0
            apart, entropies = [], []
            for s, w in zip(batch.samples, weights, strict=True):
                (logp, entropy), (logr, _) = (_response_logprobs(m, s) for m in (policy, ref))
                entropies.append(entropy.detach())
                if s.logprobs:
                    apart.append(logp.detach() - torch.tensor(s.logprobs))
                    if settings.objective.importance_cap is not None:
                        w = w * apart[-1].exp().clamp(max=settings.objective.importance_cap)
                if s.reward > 0:
                    positive = positive + (w * -logp * s.advantage).sum() / right
                else:
                    negative = negative + 0.5 * ((logp - logp.detach()).exp() * w * -s.advantage).sum() / wrong
                difference = logr.detach() - logp
                kl = kl + settings.objective.beta * (difference.exp() - difference - 1).sum() / (right + wrong)
            (positive + negative + kl).backward()
            numbers |= {"loss/positive": positive.item(), "loss/negative": negative.item(), "loss/kl": kl.item()}
            apart = torch.cat(apart)
            numbers["policy/entropy"] = torch.cat(entropies).mean().item()
            numbers |= {"logprob/diff_mean": apart.abs().mean().item(), "logprob/diff_max": apart.abs().max().item()}
            numbers["logprob/kl"] = (apart.exp() - 1 - apart).mean().item()
            numbers["logprob/capped_share"] = (apart.exp() > (settings.objective.importance_cap or math.inf)).float().mean().item()
            numbers["grad_norm/policy"] = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0).item()
            adam["policy"].step()
        history.append(numbers)
    return history, dict(policy.state_dict())


def _adamw(parameters, options):
    decayed = [p for p in parameters if p.dim() > 1]
    plain = [p for p in parameters if p.dim() == 1]
    on_plain = options.weight_decay if options.weight_decay_on_norms else 0.0
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": on_plain}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=tuple(options.betas), eps=options.eps)


def _lr(step: int, options: OptimizerConfig) -> float:
    if step <= options.warmup_steps:
        return options.lr * step / options.warmup_steps
    progress = (step - options.warmup_steps) / (STEPS - options.warmup_steps)
    return options.min_lr + (options.lr - options.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def _response_logprobs(model, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the response tokens, and the entropies of their distributions."""
    ids = torch.tensor([sample.prompt_ids + sample.response_ids])
    distributions = torch.distributions.Categorical(logits=model(ids).logits[0, len(sample.prompt_ids) - 1 : -1])
    return distributions.log_prob(torch.tensor(sample.response_ids)), distributions.entropy()


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


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_layouts_give_the_numbers_of_a_plain_implementation(ranks, tiny_model, tied):
    model = tiny_model("qwen2", tie_word_embeddings=tied)
    cap = None if tied else 1.5
    expected, weights = train_plainly(train_config(model, {}, importance_cap=cap))
    assert tied or 0.05 < expected[-1]["logprob/capped_share"] < 0.95
    for name, (world, parallel) in LAYOUTS.items():
        results = ranks(world, train_on_megatron, train_config(model, parallel, importance_cap=cap))
        for metrics, _ in results:
            for step in range(STEPS):
                for key in (*COMPARED, "logprob/capped_share") if step >= FROZEN else FIRST:
                    assert metrics[step][key] == pytest.approx(expected[step][key], rel=1e-4, abs=1e-6), (name, step, key)
                for recorded, weight in zip(metrics[step]["token_weights"], expected[step]["token_weights"], strict=True):
                    assert recorded == pytest.approx(weight, rel=1e-4, abs=2e-5), (name, step)
        seen = set()
        for _, stage in results:
            seen |= stage.keys()
            for tensor_name, value in stage.items():
                torch.testing.assert_close(torch.from_numpy(value), weights[tensor_name], rtol=1e-4, atol=2e-5, msg=f"{name} {tensor_name}")
        assert seen == weights.keys() - ({"lm_head.weight"} if tied else set()), name
