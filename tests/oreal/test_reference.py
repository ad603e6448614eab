"""The reading version: on the golden vectors, beside the functions that train at size, and a whole iteration of it.

tests/learn/test_oreal_step.py holds the step on Megatron ranks to it.
"""

import copy
import itertools
import math
import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from megatron_oreal.oreal import reference
from megatron_oreal.oreal.losses import policy_loss
from megatron_oreal.oreal.mismatch import importance_weights
from megatron_oreal.oreal.objective import CHOICES, Counts, Objective
from megatron_oreal.oreal.reference import Kept, Learner, Models, TokenRM
from megatron_oreal.oreal.token_weights import token_weights
from tests.oreal.vectors import CLOSE, Golden

LENGTHS, REWARDS = (7, 1, 12, 4, 9), (1, -1, -1, 1, 1)
DIGITS = "0123456789"
SHORT = {"num_return_sequences": 16, "max_new_tokens": 12}


class Given(torch.nn.Module):
    """In the place of a model: rows of a golden file, those of the trajectory whose tokens it is asked for."""

    def __init__(self, batch: list[Kept], rows: Tensor):
        super().__init__()
        self.rows = torch.nn.Parameter(rows.clone())
        sequences = [tuple(one.prompt_ids + one.response_ids) for one in batch]
        ends = list(itertools.accumulate(map(len, sequences)))
        self._slices = {s: slice(end - len(s), end) for s, end in zip(sequences, ends, strict=True)}
        assert len(self._slices) == len(batch) and ends[-1] == len(rows)

    def forward(self, ids: Tensor, logits_to_keep: int | None = None, use_cache: bool = False):
        rows = self.rows[self._slices[tuple(ids[0].tolist())]]
        return rows if logits_to_keep is None else SimpleNamespace(logits=rows[None, -logits_to_keep:])


def batch_of(golden: Golden) -> list[Kept]:
    starts = (golden["prompt_len"] + golden["response_len"]).cumsum(0) - golden["response_len"] - golden["prompt_len"]
    columns = (starts, *(golden[name] for name in ("prompt_len", "response_len", "rewards", "advantages", "pass_rate")))
    tokens, batch = golden["tokens"].tolist(), []
    for start, prompt, response, reward, advantage, pass_rate in zip(*(c.tolist() for c in columns), strict=True):
        middle = start + prompt
        batch.append(Kept(tokens[start:middle], tokens[middle : middle + response], int(reward), advantage, pass_rate))
    return batch


def golden_weights(golden: Golden, outcome: int) -> list[Tensor]:
    return list(golden["weight_pos" if outcome > 0 else "weight_neg"].split(golden.lengths))


def test_golden_advantages_and_pass_rates(golden: Golden):
    everything = []
    for rewards in golden["all_rewards"].view(-1, int(golden["k"])).int().tolist():
        shape = Objective(keep="all", advantage=golden.objective.advantage)
        everything += reference.select([0], [[0]] * len(rewards), rewards, shape)
    found = torch.tensor([one.advantage for one in everything], dtype=torch.float64)
    torch.testing.assert_close(found, golden["all_advantages"], **CLOSE)
    for index, advantage, pass_rate in zip(*(golden[n].tolist() for n in ("kept", "advantages", "pass_rate")), strict=True):
        assert everything[index].advantage == pytest.approx(advantage, rel=0, abs=1e-9)
        assert everything[index].pass_rate == pytest.approx(pass_rate, rel=0, abs=1e-9)


def test_golden_token_rm(golden: Golden):
    if not golden.objective.token_rm:
        assert bool(golden["loss_token_rm"].isnan())
        return
    batch = batch_of(golden)
    token_rm = Given(batch, golden["rm_scores"])
    loss, weights = reference.token_rm_backward(token_rm, batch, golden.objective)
    assert loss == pytest.approx(float(golden["loss_token_rm"]), rel=0, abs=1e-9)
    torch.testing.assert_close(token_rm.rows.grad, golden["grad_rm"], **CLOSE)
    right, wrong = (golden_weights(golden, outcome) for outcome in (1, -1))
    for one, used, *both in zip(batch, weights, right, wrong, strict=True):
        torch.testing.assert_close(used, both[one.reward < 0], **CLOSE)
        scores = reference.response_scores(token_rm, one, golden.objective).detach()
        for outcome, expected in zip((1, -1), both, strict=True):
            torch.testing.assert_close(reference.token_weights(scores, outcome, golden.objective), expected, **CLOSE)


def test_golden_policy(golden: Golden):
    batch = batch_of(golden)
    policy, frozen = (Given(batch, golden[name]) for name in ("logits", "ref_logits"))
    weights = [1.0] * len(batch)
    if golden.objective.token_rm:
        _, weights = reference.token_rm_backward(Given(batch, golden["rm_scores"]), batch, golden.objective)
    kept = [reference.response_logprobs(frozen, one).detach() for one in batch]
    losses = reference.policy_backward(policy, batch, weights, kept, golden.objective)
    for part in ("positive", "negative", "kl", "total"):
        assert losses[f"loss/{part}"] == pytest.approx(float(golden[f"loss_{part}"]), rel=0, abs=1e-9), part
    torch.testing.assert_close(policy.rows.grad, golden["grad_logits"], **CLOSE)


def choices() -> list[Objective]:
    """Every combination of what the losses of a trajectory can be, with and without the correction for another engine."""
    names = ("loss", "weight_from", "rescale", "positive_scale", "negative_scale", "kl")
    combinations = itertools.product(*(CHOICES[name] for name in names), (None, 1.1))
    return [Objective(**dict(zip(names, c, strict=False)), importance_cap=c[-1], beta=0.3, threshold=0.4) for c in combinations]


def test_every_choice_gives_what_the_functions_at_size_give():
    generator = torch.Generator().manual_seed(2)
    batch = []
    for length, reward in zip(LENGTHS, REWARDS, strict=True):
        theirs = (torch.randn(length, generator=generator) / 5).tolist() if length != 4 else []
        batch.append(Kept([0], [0] * length, reward, reward * (0.2 + length / 10), length / 20, theirs))
    logprobs, frozen, scores = torch.randn(3, sum(LENGTHS), generator=generator, dtype=torch.float64) * torch.tensor([[0.2], [0.2], [2.0]])
    rollout = torch.tensor([value for one in batch for value in one.logprobs or [math.nan] * len(one.response_ids)])
    outcomes = [torch.tensor([getattr(one, name) for one in batch], dtype=torch.float64) for name in ("reward", "advantage", "pass_rate")]
    counts = Counts.from_rewards(REWARDS, LENGTHS)
    for objective in choices():
        at_size, read = (logprobs.clone().requires_grad_() for _ in range(2))
        weights = token_weights(scores, list(LENGTHS), objective)
        importance = importance_weights(at_size, rollout, 1.1) if objective.importance_cap else None
        expected = policy_loss(at_size, frozen, weights, list(LENGTHS), *outcomes, counts, objective, importance)
        found = {"positive": 0.0, "negative": 0.0, "kl": 0.0}
        for one, *tensors in zip(batch, *(values.split(LENGTHS) for values in (read, frozen, scores)), strict=True):
            weight = reference.token_weights(tensors[2], one.reward, objective)
            outcome, kl = reference.policy_loss(*tensors[:2], weight, one, batch, objective)
            found["positive" if one.reward > 0 else "negative"] += outcome
            found["kl"] += kl
        sum(found.values()).backward()
        expected.total.backward()
        near = {"rel": 1e-9, "abs": 1e-7 if objective.importance_cap else 1e-9}  # at size the importance is computed in float32
        for name, loss in found.items():
            assert loss.item() == pytest.approx(getattr(expected, name).item(), **near), (objective, name)
        assert read.grad.tolist() == pytest.approx(at_size.grad.tolist(), **near), objective


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A digit a token, and the stop token."""
    bare = Tokenizer(WordLevel({word: i for i, word in enumerate([*DIGITS, "<stop>"])}, unk_token="<stop>"))
    bare.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<stop>", chat_template="{{ messages[0]['content'] }}")


@pytest.fixture
def models() -> Models:
    """Of random weights, so that a response ends after some ten tokens; one frozen step."""
    torch.manual_seed(0)
    random.seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    start = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", vocab_size=11, **sizes), dtype=torch.float32)
    policy, body = copy.deepcopy(start), copy.deepcopy(start).model
    policy, token_rm = (Learner(m, 1e-2, 1e-3, steps=25, warmup_steps=2) for m in (policy, TokenRM(body)))
    return Models(policy, token_rm, start, freeze_steps=1)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def has_gold(response: str, gold: str) -> bool:
    return gold in response


def test_an_iteration_updates_the_token_rm_and_then_the_policy_too(tokenizer, models):
    questions, before = [(digit, "7") for digit in "1234"], copy.deepcopy(models)
    first = reference.iteration(models, tokenizer, questions, has_gold, Objective(), 1, **SHORT)
    assert first["loss/token_rm"] == pytest.approx(math.log(2)) and first.keys() == {"loss/token_rm", "grad_norm/token_rm"}
    assert not same_weights(models.token_rm.model.head, before.token_rm.model.head)
    assert same_weights(models.policy.model, before.policy.model)
    second = reference.iteration(models, tokenizer, questions, has_gold, Objective(), 2, **SHORT)
    assert second["loss/total"] == pytest.approx(second["loss/positive"] + second["loss/negative"] + second["loss/kl"])
    assert second["grad_norm/policy"] > 0 and all(map(math.isfinite, second.values()))
    assert not same_weights(models.policy.model, before.policy.model)
    assert same_weights(models.reference, before.reference)


def test_where_all_responses_are_alike_nothing_is_learnt(tokenizer, models):
    before = copy.deepcopy(models)
    assert reference.iteration(models, tokenizer, [("1", "no digit")], has_gold, Objective(), 2, **SHORT) == {}
    assert same_weights(models.policy.model, before.policy.model) and same_weights(models.token_rm.model, before.token_rm.model)


def test_incomplete_responses_are_wrong_without_being_verified(tokenizer, models, monkeypatch):
    stop, kept, asked = tokenizer.eos_token_id, [], []
    monkeypatch.setattr(reference, "sample", lambda *_: ([1], [[7, stop], [7, 7], [3, stop], [stop]]))
    monkeypatch.setattr(reference, "update", lambda _, batch, *__: (kept.extend(batch), None))
    reference.iteration(
        models, tokenizer, [("1", "7")], lambda *words: not asked.append(words) and has_gold(*words), Objective(keep="all"), 2
    )
    assert [one.reward for one in kept] == [1, -1, -1, -1]
    assert asked == [("7", "7"), ("3", "7"), ("", "7")]
    assert {one.pass_rate for one in kept} == {0.25}


def test_responses_end_at_the_stop_token_or_at_the_longest(tokenizer, models):
    prompt, responses = reference.sample(models.policy.model, tokenizer, "37", {**reference.SAMPLING, **SHORT, "max_new_tokens": 5})
    stop = tokenizer.eos_token_id
    assert prompt == [3, 7] and len(responses) == 16
    assert {r.count(stop) for r in responses} == {0, 1}
    assert all(r[-1] == stop or len(r) == 5 for r in responses)


def test_a_pair_is_one_right_and_one_wrong_and_each_is_drawn_about_equally_often():
    rewards, drawn = [1, -1, 1, -1, 1], []
    random.seed(0)
    for _ in range(3000):
        right, wrong = reference.select([0], [[i] for i in range(5)], rewards, Objective())
        assert (right.reward, wrong.reward) == (1, -1)
        drawn += [*right.response_ids, *wrong.response_ids]
    shares = [drawn.count(i) / 3000 for i in range(5)]
    assert shares == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3], abs=0.05)


def test_iterations_teach_the_policy_to_be_right(tokenizer, models):
    questions, objective, right = [(digit, "7") for digit in "1234"], Objective(keep="all", token_rm=False), []
    for step in range(1, 17):
        verdicts = []
        verify = lambda *words, told=verdicts: told.append(has_gold(*words)) or told[-1]  # noqa: E731
        reference.iteration(models, tokenizer, questions, verify, objective, step, num_return_sequences=8, max_new_tokens=12)
        right.append(sum(verdicts) / 32)
    assert right[0] < 0.4 and right[-1] > 0.8
