"""The OREAL step the plain way: transformers with SDPA and checkpointed layers, torch's FSDP and AdamW, one sequence a forward pass.

What bench_step.py compares with, after the released trainer: float32 weights and Adam's moments under FSDP2 with bfloat16 products, layers
recomputed in the backward pass, no packing, dense logits (of the response tokens alone, which is kinder than logits of all). The losses
are those of `oreal/`: only the models, their memory and the optimizer differ.
"""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.oreal.losses import policy_loss, token_rm_loss
from megatron_oreal.oreal.objective import Counts
from megatron_oreal.oreal.token_weights import TokenWeights, token_weights
from megatron_oreal.trajectory import Sample


class Scores(torch.nn.Module):
    """The token RM: a transformer with Linear(hidden, 1, no bias), zero at the start."""

    def __init__(self, body: torch.nn.Module):
        super().__init__()
        self.body, self.head = body, torch.nn.Linear(body.config.hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """[1, tokens] -> [tokens] float32."""
        return self.head(self.body(ids, use_cache=False).last_hidden_state)[0, :, 0].float()


class PlainLearner:
    """Policy, token RM and reference; `train` as learn.step.Learner's, on one GPU (or on a CPU, in float32)."""

    def __init__(self, config: TrainConfig, device: torch.device):
        if not dist.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self._config, self._device, path = config, device, config.model.path
        self._policy = self._sharded(_checkpointed(_load(AutoModelForCausalLM, path, "float32")))
        self._token_rm = self._sharded(Scores(_checkpointed(_load(AutoModel, path, "float32"))))
        self._reference = _load(AutoModelForCausalLM, path, config.model.dtype).to(device).requires_grad_(False).eval()
        fused = device.type == "cuda"
        self._adam = {
            model: torch.optim.AdamW(model.parameters(), o.lr, tuple(o.betas), o.eps, o.weight_decay, fused=fused)
            for model, o in ((self._policy, config.policy.optimizer), (self._token_rm, config.token_rm.optimizer))
        }

    def _sharded(self, model: torch.nn.Module) -> torch.nn.Module:
        precision = MixedPrecisionPolicy(param_dtype=getattr(torch, self._config.model.dtype), reduce_dtype=torch.float32)
        mesh = dist.init_device_mesh(self._device.type, (1,))
        model = model.to(self._device).train()
        layers = (model.body if isinstance(model, Scores) else model.model).layers
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        return fully_shard(model, mesh=mesh, mp_policy=precision)

    def train(self, samples: Sequence[Sample], step: int) -> tuple[dict[str, float], dict[str, float]]:
        """A step, counted from 1, of the linear warm-up.

        Returns:
            (seconds of each stage, the optimizer's apart; losses and gradient norms, named as in metrics.jsonl).
        """
        counts = Counts.from_rewards([s.reward for s in samples], [len(s.response_ids) for s in samples])
        watch = Stopwatch(self._device)
        losses, weights = self._token_rm_pass(samples, counts)
        watch.lap("token_rm")
        losses["grad_norm/token_rm"] = self._update(self._token_rm, self._config.token_rm.optimizer, step)
        watch.lap("optimizer")
        with torch.no_grad():
            reference = [self._logprobs(self._reference, s) for s in samples]
        watch.lap("reference")
        losses |= self._policy_pass(samples, counts, weights, reference)
        watch.lap("policy")
        losses["grad_norm/policy"] = self._update(self._policy, self._config.policy.optimizer, step)
        watch.lap("optimizer")
        return watch.seconds, losses

    def _token_rm_pass(self, samples: Sequence[Sample], counts: Counts) -> tuple[dict[str, float], list[TokenWeights]]:
        """Its loss, backwards; and the token weights of its scores, one a sample."""
        weights, total = [], 0.0
        for s in samples:
            scores = self._token_rm(self._ids(s))[len(s.prompt_ids) - 1 : -1]
            loss = token_rm_loss(scores, [len(scores)], self._tensor(s.reward), counts)
            weights.append(token_weights(scores.detach(), [len(scores)], self._config.objective))
            loss.backward()
            total += loss.detach()
        return {"loss/token_rm": float(total)}, weights

    def _policy_pass(self, samples, counts: Counts, weights: list[TokenWeights], reference: list[Tensor]) -> dict[str, float]:
        total = 0.0
        for s, weight, ref in zip(samples, weights, reference, strict=True):
            logprobs, of_sample = self._logprobs(self._policy, s), (s.reward, s.advantage, s.pass_rate)
            tensors = map(self._tensor, of_sample)
            loss = policy_loss(logprobs, ref, weight, [len(logprobs)], *tensors, counts, self._config.objective).total
            loss.backward()
            total += loss.detach()
        return {"loss/total": float(total)}

    def _logprobs(self, model: torch.nn.Module, s: Sample) -> Tensor:
        """[response tokens] float32."""
        wanted = len(s.response_ids)
        logits = model(self._ids(s), use_cache=False, logits_to_keep=wanted + 1).logits[0, :-1].float()
        return logits.log_softmax(-1).gather(1, self._ids(s)[0, -wanted:, None])[:, 0]

    def _update(self, model: torch.nn.Module, options: OptimizerConfig, step: int) -> float:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_grad)
        for group in self._adam[model].param_groups:
            group["lr"] = options.lr * min(step / options.warmup_steps, 1)
        self._adam[model].step()
        self._adam[model].zero_grad()
        return float(norm.full_tensor())

    def _ids(self, s: Sample) -> Tensor:
        return torch.tensor([s.prompt_ids + s.response_ids], device=self._device)

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor([float(value)], device=self._device)


class Stopwatch:
    """Seconds between laps, with all that a GPU was given to do by then done; laps of one name add up."""

    def __init__(self, device: torch.device):
        self._device, self.seconds = device, {}
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _load(kind, path: str, dtype: str) -> torch.nn.Module:
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the token RM leaves the LM head out, of which it would tell at length
    return kind.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="sdpa")


def _checkpointed(model: torch.nn.Module) -> torch.nn.Module:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model
