"""OREAL to be read beside the paper (arXiv 2502.06781): one iteration of its Algorithm 1, from questions to updated models.

questions -> sample K responses -> verify -> advantages -> select -> token RM: loss, scores -> token weights -> policy: loss -> update

Plain torch and transformers, one trajectory a forward pass, every formula written out. Where paper and released trainer differ, Objective
says which is meant. What trains at size is learn/step.py with the functions beside this file; tests hold the two to the same numbers.
"""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from megatron_oreal.oreal.objective import Objective

RIGHT, WRONG = 1, -1  # the rewards
SAMPLING = dict(num_return_sequences=16, do_sample=True, temperature=1.0, top_p=0.9, top_k=0, repetition_penalty=1.0, max_new_tokens=14_000)


@dataclass(frozen=True)
class Kept:
    """A trajectory to learn from. Anything with these fields will do in its place, a trajectory.Sample for one."""

    prompt_ids: list[int]
    response_ids: list[int]  # R tokens, the stop token included
    reward: int
    advantage: float  # over the K rewards of its question
    pass_rate: float  # p: the share of right ones among these K
    logprobs: list[float] = field(default_factory=list)  # [R] by another engine that sampled it, if one did


class TokenRM(torch.nn.Module):
    """The policy's architecture and starting weights, its LM head replaced by Linear(hidden, 1, no bias) that starts at zero."""

    def __init__(self, body: PreTrainedModel):
        super().__init__()
        self.body, self.head = body, torch.nn.Linear(body.config.hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:  # [1, tokens] -> [tokens] scores
        return self.head(self.body(ids, use_cache=False).last_hidden_state)[0, :, 0]


class Learner:
    """A model and its AdamW; the learning rate rises linearly, then falls along half a cosine to `min_lr`."""

    def __init__(self, model: torch.nn.Module, lr: float, min_lr: float, steps=90, warmup_steps=10, clip_grad=1.0, **adamw):
        self.model, self._clip_grad, self._schedule = model, clip_grad, (lr, min_lr, steps, warmup_steps)
        self._adamw = torch.optim.AdamW(model.parameters(), **adamw)

    def update(self, step: int) -> float:
        """Clip the gradients, use them, forget them; returns their norm before clipping. `step` counts from 1."""
        lr, min_lr, steps, warmup = self._schedule
        fallen = (1 - math.cos(math.pi * max(step - warmup, 0) / (steps - warmup))) / 2
        for group in self._adamw.param_groups:
            group["lr"] = lr * step / warmup if step < warmup else lr - (lr - min_lr) * fallen
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_grad)
        self._adamw.step()
        self._adamw.zero_grad()
        return norm.item()


@dataclass
class Models:
    """All three start with the same weights."""

    policy: Learner
    token_rm: Learner | None  # None where the objective has none, and all token weights are 1
    reference: PreTrainedModel  # the policy of the start
    freeze_steps: int = 10  # first steps, which update the token RM alone: its scores do not say much yet


def iteration(models: Models, tokenizer: PreTrainedTokenizerBase, questions, verify: Callable, objective: Objective, step: int, **sampling):
    """Algorithm 1's loop body. `questions`: (question, gold answer) each; `verify`: (response, gold answer) -> whether it is right."""
    batch, stop = [], tokenizer.eos_token_id
    for question, gold in questions:
        prompt, responses = sample(models.policy.model, tokenizer, question, SAMPLING | sampling)
        # One that does not end with the stop token is incomplete, and wrong whatever it says.
        right = [ids[-1] == stop and verify(tokenizer.decode(ids[:-1]), gold) for ids in responses]
        batch += select(prompt, responses, [RIGHT if answer else WRONG for answer in right], objective)
    return update(models, batch, objective, step)[0] if batch else {}


def sample(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, sampling: dict) -> tuple[list[int], list[list[int]]]:
    """The prompt's tokens, and K responses as far as the stop token or the longest that is allowed."""
    chat, stop = [{"role": "user", "content": question}], tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(policy.device)
    drawn = policy.generate(**prompt, **sampling, eos_token_id=stop, pad_token_id=stop)
    ids = prompt["input_ids"][0].tolist()
    return ids, [row[: row.index(stop) + 1] if stop in row else row for row in drawn[:, len(ids) :].tolist()]


def advantages(rewards: Sequence[float], kind: str) -> list[float]:
    """rloo: each against the mean of the K - 1 others; grpo: against the mean of all, in standard deviations."""
    if kind == "rloo":
        return [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards]
    return [(r - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-8) for r in rewards]


def select(prompt: list[int], responses: list[list[int]], rewards: list[int], objective: Objective) -> list[Kept]:
    """One right and one wrong response to a question, at random; none where all are alike. With keep `all`, every one."""
    chosen, shaped = range(len(rewards)), advantages(rewards, objective.advantage)
    if objective.keep == "pair":
        right, wrong = ([i for i in chosen if rewards[i] == reward] for reward in (RIGHT, WRONG))
        chosen = [random.choice(right), random.choice(wrong)] if right and wrong else []
    return [Kept(prompt, responses[i], rewards[i], shaped[i], rewards.count(RIGHT) / len(rewards)) for i in chosen]


def update(models: Models, batch: list[Kept], objective: Objective, step: int) -> tuple[dict[str, float], list]:
    """An optimizer step of each model. Returns losses and norms, named as in metrics.jsonl, and each trajectory's token weights."""
    numbers, weights = {}, [1.0] * len(batch)
    if objective.token_rm:
        numbers["loss/token_rm"], weights = token_rm_backward(models.token_rm.model, batch, objective)
        numbers["grad_norm/token_rm"] = models.token_rm.update(step)
        if step <= models.freeze_steps:
            return numbers, weights
    with torch.no_grad():
        reference = [response_logprobs(models.reference, one) for one in batch]
    numbers |= policy_backward(models.policy.model, batch, weights, reference, objective)
    numbers["grad_norm/policy"] = models.policy.update(step)
    return numbers, weights


def token_rm_backward(token_rm: torch.nn.Module, batch: list[Kept], objective: Objective) -> tuple[float, list[Tensor]]:
    """Cross-entropy of each trajectory's mean score against its reward; and the token weights by the scores, before the update."""
    total, weights = 0.0, []
    for one in batch:
        scores = response_scores(token_rm, one, objective)
        loss = -logsigmoid(scores.mean() * one.reward) / len(batch)
        loss.backward()
        total += loss.detach()
        weights.append(token_weights(scores.detach(), one.reward, objective))
    return float(total), weights


def response_scores(token_rm: torch.nn.Module, one: Kept, objective: Objective) -> Tensor:
    """[R]: read at each token's own position (paper), or at the one before, whose logits predict it (released)."""
    start = len(one.prompt_ids) - (objective.score_position == "previous")
    scores = token_rm(token_ids(one, token_rm))[start : start + len(one.response_ids)]
    return scores.to(torch.promote_types(scores.dtype, torch.float32))  # at least, whatever the model's precision


def token_weights(scores: Tensor, reward: int, objective: Objective) -> Tensor:
    """Eq. 10, [R] -> [R] from 0 to 1: how much each token has to do with the success of a right, the failure of a wrong trajectory."""
    if objective.weight_from == "cumulative_mean":
        scores = scores.cumsum(0) / torch.arange(1, len(scores) + 1, device=scores.device)
    q = scores.sigmoid() if reward == RIGHT else 1 - scores.sigmoid()
    if objective.rescale == "threshold":  # with c = 0.5: max(2 q - 1, 0)
        return ((q - objective.threshold) / (1 - objective.threshold)).clamp(0, 1)
    top = q.argsort(descending=True, stable=True)[: max(1, round(objective.topk_ratio * len(q)))]
    low, high = q[top].min(), q[top].max()
    return torch.zeros_like(q).scatter(0, top, (q[top] - low) / (high - low) if high > low else torch.ones_like(q[top]))


def policy_backward(policy: torch.nn.Module, batch: list[Kept], weights: list, reference: list[Tensor], objective: Objective) -> dict:
    """The policy's loss in its parts, summed over the batch; `weights`, `reference` (log-probabilities): [R] for each trajectory."""
    losses = {"loss/positive": 0.0, "loss/negative": 0.0, "loss/kl": 0.0}
    for one, weight, ref in zip(batch, weights, reference, strict=True):
        outcome, kl = policy_loss(response_logprobs(policy, one), ref, weight, one, batch, objective)
        (outcome + kl).backward()
        losses["loss/positive" if one.reward == RIGHT else "loss/negative"] += outcome.detach()
        losses["loss/kl"] += kl.detach()
    return {name: float(loss) for name, loss in losses.items()} | {"loss/total": float(sum(losses.values()))}


def policy_loss(logprobs: Tensor, reference: Tensor, weights, one: Kept, batch: list[Kept], objective: Objective) -> tuple[Tensor, Tensor]:
    """What one trajectory adds to the loss, by its outcome and by KL: sums over its tokens, each over a count of the whole batch."""
    ratio = torch.exp(logprobs - logprobs.detach())  # pi / pi_old: 1, as they are the same policy, with the gradient of log pi
    every = sum(len(other.response_ids) for other in batch)
    alike = sum(len(other.response_ids) for other in batch if other.reward == one.reward)
    if objective.loss == "reinforce":  # the paper's baseline
        outcome = ratio * -one.advantage / every
    elif one.reward == RIGHT:  # Eq. 11: behaviour cloning of what best-of-N sampling chose
        outcome = weights * -logprobs * (one.advantage if objective.positive_scale == "advantage" else 1) / alike
    else:  # Eq. 12: away from what was wrong, its reward reshaped to agree with the gradient of the right ones
        reshaped = -one.advantage if objective.negative_scale == "advantage" else 1 - one.pass_rate
        outcome = objective.eta * weights * ratio * reshaped / alike
    if objective.importance_cap is not None and one.logprobs:  # beyond the paper: another engine's probabilities differ a little
        outcome = outcome * torch.exp(logprobs.detach() - logprobs.new_tensor(one.logprobs)).clamp(max=objective.importance_cap)
    d = reference - logprobs
    kl = {"k3": torch.expm1(d) - d, "k1": d, "mse": d.square() / 2}[objective.kl] / every
    return outcome.sum(), objective.beta * kl.sum()


def response_logprobs(model: torch.nn.Module, one: Kept) -> Tensor:
    """[R] log-probabilities of the response's tokens, each by the logits of the position before it."""
    ids, length = token_ids(one, model), len(one.response_ids)
    logits = model(ids, use_cache=False, logits_to_keep=length + 1).logits[0, :-1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).gather(1, ids[0, -length:, None])[:, 0]


def token_ids(one: Kept, model: torch.nn.Module) -> Tensor:
    """[1, tokens], where the model is."""
    return torch.tensor([one.prompt_ids + one.response_ids], device=next(model.parameters()).device)
