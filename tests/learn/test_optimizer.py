"""Megatron's optimizer and schedule do what torch.optim.AdamW and the spec's formula do."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from megatron_oreal.errors import Diverged
from megatron_oreal.learn import optimizer as optimizer_module
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, Models
from megatron_oreal.model import hf_weights
from megatron_oreal.model.config import ModelConfig
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.trajectory import Sample, TrainBatch
from tests.settings import compute_config, optimizer_config, parallel_config, policy_config, tiny_run

STEPS = 6
GRADIENT_NORMS = (0.1, 3.0, 0.5, 20.0, 1.5, 0.02)  # some are clipped at 1.0
PAPER = optimizer_config(lr=5e-7, min_lr=1e-7, warmup_steps=10)  # spec, Schedule: 90 steps


def options(**changes) -> OptimizerConfig:
    # A large eps: with 1e-8 Adam turns the rounding noise of gradients near zero into steps of the size of lr.
    return optimizer_config(**{"lr": 3e-3, "min_lr": 3e-4, "warmup_steps": 2, "weight_decay": 0.1, "eps": 1e-3, **changes})


def update_with_a_nan_on_rank_1(run) -> tuple[str, bool]:
    """What is raised; whether the weights are as they were."""
    with Ranks(run.parallel, run.seed) as ranks:
        trainable = Learner(run, ranks).policy
        parameters = dict(trainable.gpt[0].named_parameters())
        before = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            bad = ranks.placement.rank == 1 and name.endswith("linear_fc2.weight")
            parameter.main_grad.fill_(float("nan") if bad else 1e-3)
        for chunk in trainable.model:
            chunk.finish_grad_sync()
        with pytest.raises(Diverged) as raised:
            trainable.update()
        return str(raised.value), all(torch.equal(p, before[name]) for name, p in parameters.items())


@pytest.mark.parametrize("layout", [{"dp": 2}, {"tp": 2}], ids=["dp2", "tp2"])
def test_gradients_that_are_not_finite_end_the_run_on_all_ranks_with_the_weights_as_they_were(ranks, tiny_model, layout):
    for said, unchanged in ranks(2, update_with_a_nan_on_rank_1, tiny_run(tiny_model(), layout)):
        assert said.startswith("gradients are not finite (norm nan") and unchanged


def norm_of_gradients(run, kernels=None) -> float:
    """Of a step after which they were clipped; `kernels`: what Megatron takes at its import where Transformer Engine is installed."""
    from megatron.core.optimizer import clip_grads, optimizer

    if kernels:
        for module in (clip_grads, optimizer):
            module.multi_tensor_applier = module.multi_tensor_scale_impl = kernels
        clip_grads.l2_norm_impl = kernels
    with Ranks(run.parallel, run.seed) as ranks:
        return Learner(run, ranks).train(a_batch(1), 1).metrics["grad_norm/token_rm"]


def without_a_driver(*_args):
    raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")


def test_kernels_of_transformer_engine_are_not_called_where_no_gpu_is(ranks, tiny_model):
    run = tiny_run(tiny_model(), {})
    run = replace(run, token_rm=replace(run.token_rm, optimizer=replace(run.token_rm.optimizer, clip_grad=0.1)))
    (norm,), (same,) = ranks(1, norm_of_gradients, run), ranks(1, norm_of_gradients, run, without_a_driver)
    assert norm == same > 0.1


def train_in_small_buckets(run) -> tuple[list[dict], dict, bool]:
    """Metrics of the steps, this rank's part of the weights after them, and whether its gradients lay in several buckets."""
    config = partial(optimizer_module.DistributedDataParallelConfig, bucket_size=5000)  # several, as a real model has
    with pytest.MonkeyPatch.context() as patch, Ranks(run.parallel, run.seed) as ranks:
        patch.setattr(optimizer_module, "DistributedDataParallelConfig", config)
        learner = Learner(run, ranks)
        metrics = [learner.train(a_batch(step), step).metrics for step in (1, 2, 3)]
        weights = {n: t.clone().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}
        several = len(learner.policy.model[0].bucket_groups) > 1  # on the first pipeline stage: Megatron has one on others
        return [{k: v for k, v in one.items() if not k.startswith("time/")} for one in metrics], weights, several


def a_batch(step: int) -> TrainBatch:
    tokens = torch.randint(1, 97, (4, 20), generator=torch.Generator().manual_seed(step)).tolist()
    return TrainBatch([Sample("q", t[:5], t[5:], 1 - 2 * (i % 2), 1.0 - 2 * (i % 2), 0.5, 0) for i, t in enumerate(tokens)])


@pytest.mark.parametrize("layout", [{"dp": 2}, {"dp": 2, "pp": 2}, {"dp": 2, "pp": 2, "vpp": 2}], ids=["dp2", "dp2-pp2", "dp2-vpp2"])
def test_overlapped_messages_change_nothing(ranks, tiny_model, layout):
    model, world = tiny_model(num_hidden_layers=4), 2 * layout.get("pp", 1)
    plain = tiny_run(model, layout, steps=3)
    late = replace(plain, learn=replace(plain.learn, overlap_grad_reduce=True, overlap_param_gather=True))
    expected, got = ranks(world, train_in_small_buckets, plain), ranks(world, train_in_small_buckets, late)
    assert any(several for *_, several in got)
    for (metrics, weights, _), (same, as_before, _) in zip(got, expected, strict=True):
        assert metrics == [pytest.approx(step, rel=1e-4, abs=1e-7) for step in same]
        assert weights.keys() == as_before.keys()
        for name, value in as_before.items():
            torch.testing.assert_close(torch.from_numpy(weights[name]), torch.from_numpy(value), rtol=1e-4, atol=1e-6, msg=name)


def learning_rate(step: int, total: int, o: OptimizerConfig) -> float:
    """Of the update that is number `step` of the schedule, counted from 1."""
    if step <= o.warmup_steps:
        return o.lr * step / o.warmup_steps
    return o.min_lr + (o.lr - o.min_lr) * (1 + math.cos(math.pi * (step - o.warmup_steps) / (total - o.warmup_steps))) / 2


def update_on_given_gradients(model: str, settings: OptimizerConfig) -> list[tuple]:
    """(name, start, by Trainable, by AdamW) of every parameter, numpy, after STEPS updates on the same gradients."""
    parallel = parallel_config()
    ranks = Ranks(parallel, seed=0)
    trainable = Trainable(Models(ModelConfig(model, "float32"), parallel, compute_config(), ranks).build("policy"), settings, STEPS)
    parameters = dict(trainable.gpt[0].named_parameters())
    start = {n: p.detach().clone() for n, p in parameters.items()}
    copies = {n: torch.nn.Parameter(p.clone()) for n, p in start.items()}
    vectors = [p for p in copies.values() if p.dim() == 1]
    matrices = [p for p in copies.values() if p.dim() > 1]
    on_vectors = settings.weight_decay if settings.weight_decay_on_norms else 0.0
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": on_vectors}]
    adamw = torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps)
    generator = torch.Generator().manual_seed(1)
    for step, norm in enumerate(GRADIENT_NORMS, 1):
        gradients = {n: torch.randn(p.shape, generator=generator) for n, p in parameters.items()}
        scale = norm / torch.stack([g.norm() for g in gradients.values()]).norm()
        for name, gradient in gradients.items():
            parameters[name].main_grad.copy_(gradient * scale)
            copies[name].grad = gradient * scale
        trainable.go_to(step)
        found = trainable.update()
        expected = torch.nn.utils.clip_grad_norm_(copies.values(), settings.clip_grad)
        assert found == pytest.approx(float(expected), rel=1e-6)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step, STEPS, settings)
        assert trainable.lr == pytest.approx(group["lr"], rel=1e-12)
        adamw.step()
    ranks.stop()
    return [(n, start[n].numpy(), parameters[n].detach().numpy().copy(), copies[n].detach().numpy()) for n in parameters]


@pytest.mark.parametrize("on_norms", [True, False])
def test_updates_equal_adamw_with_and_without_decay_of_norms_and_biases(ranks, tiny_model, on_norms):
    (results,) = ranks(1, update_on_given_gradients, tiny_model(), options(weight_decay_on_norms=on_norms))
    assert {start.ndim for _, start, _, _ in results} == {1, 2}
    for name, start, got, expected in results:
        got, expected, moved = (torch.from_numpy(a) for a in (got, expected, expected - start))
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
        assert moved.norm() > 1e-3, name


def schedule(model: str, settings: OptimizerConfig, total: int) -> list[float]:
    """Learning rates of the steps from 1 to total + 1."""
    parallel = parallel_config()
    ranks = Ranks(parallel, seed=0)
    trainable = Trainable(Models(ModelConfig(model, "float32"), parallel, compute_config(), ranks).build("token_rm"), settings, total)
    rates = []
    for step in range(1, total + 2):
        trainable.go_to(step)
        rates.append(trainable.lr)
    ranks.stop()
    return rates


def test_learning_rates_of_warm_up_and_cosine(ranks, tiny_model):
    (rates,) = ranks(1, schedule, tiny_model(), PAPER, 90)
    by_hand = {1: 5e-8, 5: 2.5e-7, 10: 5e-7, 30: 1e-7 + 4e-7 * (1 + math.sqrt(0.5)) / 2, 50: 3e-7, 90: 1e-7, 91: 1e-7}
    for step, rate in by_hand.items():
        assert rates[step - 1] == pytest.approx(rate, rel=1e-9), step
    assert rates[:90] == pytest.approx([learning_rate(step, 90, PAPER) for step in range(1, 91)], rel=1e-9)


def policy_rates(model: str, counts_frozen: bool, without: int) -> list[float | None]:
    """The policy's learning rate at each step of a run that is frozen for two; None where it was not updated.

    `without`: a step in which no question was of use.
    """
    policy = policy_config(optimizer=options(warmup_steps=3), freeze_steps=2, warmup_counts_frozen=counts_frozen)
    settings = tiny_run(model, steps=STEPS, objective=Objective(), policy=policy)
    ranks = Ranks(settings.parallel, settings.seed)
    learner = Learner(settings, ranks)
    batch = TrainBatch([Sample("q", [1, 2], [3, 4, 5], 1, 1.0, 0.5, 0), Sample("q", [1, 2], [6, 7], -1, -1.0, 0.5, 0)])
    rates = [learner.train(batch, step).metrics.get("lr/policy") if step != without else None for step in range(1, STEPS + 1)]
    ranks.stop()
    return rates


@pytest.mark.parametrize(("counts_frozen", "without"), [(True, 4), (False, 0), (False, 1)])
def test_every_step_has_its_learning_rate_whether_the_ones_before_trained_or_not(ranks, tiny_model, counts_frozen, without):
    """Whether frozen steps count in the policy's schedule is configured; one without a batch counts as it does in `steps`."""
    (rates,) = ranks(1, policy_rates, tiny_model(), counts_frozen, without)
    total, frozen = (STEPS, 0) if counts_frozen else (STEPS - 2, 2)
    assert [step for step, rate in enumerate(rates, 1) if rate is None] == sorted({1, 2, without} - {0})
    for step, rate in enumerate(rates, 1):
        assert rate in (None, pytest.approx(learning_rate(step - frozen, total, options(warmup_steps=3)), rel=1e-9)), step
