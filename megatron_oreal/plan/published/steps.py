"""Published steps of reinforcement learning, and training alone: rollout, log-probabilities, training, sync, and what they come to."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import exp
from statistics import NormalDist

from megatron_oreal.devices import DEVICES
from megatron_oreal.learn.packing import Cost
from megatron_oreal.model.config import Layout
from megatron_oreal.model.shape import Shape, head_dim
from megatron_oreal.plan.memory import ADAM_BYTES, GRADIENT_BYTES, whole
from megatron_oreal.plan.operations.prices import NETWORK, Stated
from megatron_oreal.plan.operations.sampling import Sampler, slowest
from megatron_oreal.plan.operations.silicon import measured
from megatron_oreal.plan.operations.training import FORWARD, RECOMPUTED, TRAINED, Overlap, Trainer, Work
from megatron_oreal.plan.published.compared import UNREADABLE, Compared, Left, said
from megatron_oreal.plan.published.models import Cannot, device_of, model_of
from megatron_oreal.plan.published.serving import MOST, engine_of, room_of
from megatron_oreal.plan.timing import handed_over_s, spread_over

SPREAD = 0.7
"""Of the logarithm of lengths, where a source gives their mean alone: conf/plan."""
PROMPT = 150
"""Tokens, where a source does not give them: MATH and GSM8K with a chat template."""
PADDING = 300
"""Tokens that a sequence costs besides its own where sequences are not packed. Fitted to verl's logs of Qwen2-7B, whose training and
log-probabilities take that much more than packed ones would."""
UNPACKED = 2
"""Sequences of a micro-batch by NeMo-RL's DTensor policy before it packed them, twice as many without gradients. Fitted to its 70B."""
BUDGET = 8192
"""Tokens of a micro-batch at least, where a source does not say."""
GPUS_PER_HOST = 8


@dataclass(frozen=True)
class Row:
    """Of published_rl.jsonl."""

    fields: dict

    def compared(self) -> Iterator[Compared | Left]:
        """Every figure that can be, and why others cannot.

        Raises:
            Cannot: none can.
        """
        if self.fields["kind"] == "train_only":
            yield Compared(self.id, "throughput", self.tflops, self.fields["figures"]["tflops_per_gpu"])
            return
        figures = self.fields["figures"]
        for part, published, seconds in self._parts(figures):
            try:
                if published is not None:
                    yield Compared(self.id, part, seconds(), published)
            except (*UNREADABLE, Cannot) as reason:
                yield Left(f"{self.id}, {part}", said(reason))

    def _parts(self, figures: dict):
        generated = figures.get("generate_sequences_s") or figures.get("gen_s")
        yield "rollout", generated, lambda: self.rollout_s
        yield "logprobs", figures.get("logprob_s"), lambda: self.logprobs_s
        yield "train", figures.get("train_s"), lambda: self.train_s
        yield "step", figures.get("step_s"), lambda: self.step_s
        if figures.get("step_s"):
            yield "throughput", figures.get("tokens_per_s_per_gpu"), lambda: self.tokens_per_s

    @property
    def id(self) -> str:
        return self.fields["id"]

    @property
    def notes(self) -> str:
        return self.fields.get("notes") or ""

    @cached_property
    def hf(self) -> Shape:
        return model_of(self.fields["model"], self.fields.get("params_b"))

    @cached_property
    def device(self) -> str:
        return device_of(self.fields.get("gpu"), self.fields["framework"])

    @cached_property
    def shares(self) -> tuple[int, int]:
        """GPUs that train, GPUs that sample."""
        gpus, placement = self.fields["n_gpus"], self.fields.get("placement") or {}
        if placement.get("mode") != "disaggregated":
            return gpus, gpus
        split = re.match(r"(\d+) train\w* \+ (\d+)", placement.get("split") or "")
        if not split:
            raise Cannot(f"how {gpus} GPUs are split is not said in numbers")
        return int(split[1]), int(split[2])

    @property
    def colocated(self) -> bool:
        return (self.fields.get("placement") or {}).get("mode") != "disaggregated"

    @property
    def count(self) -> int:
        return self.fields["trajectories_per_step"]

    @cached_property
    def prompt(self) -> int:
        """Mean tokens of a prompt."""
        derived = self.fields.get("derived") or {}
        given = self.fields.get("mean_prompt_tokens") or derived.get("mean_prompt_tokens")
        total = derived.get("mean_total_tokens") or derived.get("total_tokens_per_traj_implied")
        response = self.fields.get("mean_response_tokens")
        return round(given or (total - response if total and response else PROMPT))

    @cached_property
    def responses(self) -> list[int]:
        """Tokens of every response: lognormal, cut at the limit, with the mean that is published."""
        mean = self.fields.get("mean_response_tokens") or (self.fields.get("mean_total_tokens") or 0) - self.prompt
        if mean <= 0:
            raise Cannot("no mean length is given")
        most = (self.fields.get("max_tokens") or 16 * mean) - (self.prompt if self.fields.get("max_tokens") else 0)
        normal, scale = NormalDist(0.0, SPREAD), mean
        for _ in range(20):
            lengths = [min(most, scale * exp(normal.inv_cdf((i + 0.5) / self.count))) for i in range(self.count)]
            scale *= mean * self.count / sum(lengths)
        random.Random(0).shuffle(lengths)
        return [max(1, round(length)) for length in lengths]

    @cached_property
    def rollout_s(self) -> float:
        """Of the generation alone."""
        if self.fields.get("gen_comparable_to_trajectories") is False:
            raise Cannot("more was generated than trained on (dynamic sampling), and how much is not said")
        if "AGENTIC" in self.notes:
            raise Cannot("trajectories hold an environment's time")
        layout = self.fields["gen_layout"]
        if not layout.get("tp"):
            raise Cannot("the engines' tensor parallelism is not given")
        eager = " eager" if "enforce_eager" in self.notes else ""
        served = engine_of(self.hf, self.device, f"{layout['engine']} offline{eager}", layout["tp"])
        shared = self.fields.get("samples_per_prompt") or 1
        engine = Sampler(served, room_of(served, self.device), MOST, self.prompt, shared)
        return slowest(engine, self.responses, max(1, self.shares[1] // layout["tp"]))

    @cached_property
    def trainer(self) -> Trainer:
        """A layout that is not given is FSDP's over the engines' tensor parallelism, as NeMo-RL's recipes have it."""
        layout, backend = self.fields["train_layout"], (self.fields["train_layout"].get("backend") or "").lower()
        sharded = "fsdp" in backend
        if not backend or not (layout.get("tp") or sharded):
            raise Cannot("the training layout is not given")
        tp = layout.get("tp") or self.fields["gen_layout"].get("tp") or 1
        layout = Layout(tp, layout.get("pp") or 1, layout.get("vpp"), layout.get("cp") or 1, tp > 1)
        prices = measured(self.device, "sglang") or Stated.of(self.device, NETWORK)
        overlap = Overlap(*[self.fields["kind"] == "train_only"] * 3)  # Megatron-LM's table says that it overlaps; other sources are silent
        return Trainer(self.hf, prices, DEVICES[self.device], layout, self.shares[0], GPUS_PER_HOST, NETWORK, sharded, overlap)

    @property
    def dp(self) -> int:
        layout = self.trainer.layout
        return max(1, self.shares[0] // (layout.tp * layout.pp * layout.cp))

    @cached_property
    def updates(self) -> int:
        """Optimizer steps of a step."""
        fields = self.fields
        batch = fields.get("train_global_batch") or (fields.get("ppo_mini_batch_prompts") or 0) * (fields.get("samples_per_prompt") or 1)
        stated = re.search(r"(\d+) optimizer steps", fields.get("off_policy") or "")
        return max(1, self.count // batch if batch else int(stated[1]) if stated else 1)

    def work(self, unpacked: int = UNPACKED) -> Work:
        """Of the busiest rank in an optimizer step; `unpacked`: sequences of a micro-batch where they are not packed."""
        padding = PADDING if re.search(r"(No|no) (remove_padding|dynamic batch)", self.notes) else 0
        lengths = tuple(n + self.prompt + padding for n in self.responses[:: self.updates])
        if "dtensor" in (self.fields["train_layout"].get("backend") or ""):
            each = len(lengths) / self.dp
            return Work(max(1, round(each / unpacked)), sum(lengths) / self.dp, sum(n * n for n in lengths) / self.dp)
        budget = max(*lengths, BUDGET)
        return spread_over(lengths, self.dp, budget, Cost.of(self.hf, head_dim(self.hf))).work

    @cached_property
    def train_s(self) -> float:
        """Forward, backward and update of the policy."""
        if "non-dynamic-batch rows" in self.notes:
            raise Cannot("whether the run packed its micro-batches is not said, and that doubles its time")
        passes = RECOMPUTED if self.trainer.sharded or "full recompute" in self.notes else TRAINED
        work = self.work()
        update = self.trainer.update(whole(self.hf), ADAM_BYTES["bfloat16"], GRADIENT_BYTES, work)
        return self.updates * (self.trainer.seconds(work, passes, 3) + update)

    @cached_property
    def logprobs_s(self) -> float:
        """NeMo-RL times the policy's and the reference's together."""
        passes = 2 if "nemo" in self.fields["framework"].lower() else 1
        return passes * self._forward_s

    @property
    def _forward_s(self) -> float:
        return self.updates * self.trainer.seconds(self.work(2 * UNPACKED), FORWARD, 1)

    @cached_property
    def step_s(self) -> float:
        """Engines that are a step ahead sample while the models train."""
        reference = self._forward_s if "reference pass included in step" in self.notes else 0.0
        training = self.logprobs_s + self.train_s + reference
        handed = handed_over_s(whole(self.hf), 2, self.colocated)
        policy = (self.fields.get("off_policy") or "").lower()
        ahead = "async" in policy or "off" in policy.replace("on-policy", "")
        return handed + (max(self.rollout_s, training) if ahead and not self.colocated else self.rollout_s + training)

    @property
    def tokens_per_s(self) -> float:
        """A GPU: of the whole step, or of slime's rollout."""
        if "slime" in self.fields["framework"].lower():
            return sum(self.responses) / self.rollout_s / self.shares[1]
        return (sum(self.responses) + self.count * self.prompt) / self.step_s / self.fields["n_gpus"]

    @property
    def tflops(self) -> float:
        """Of a GPU in pretraining, by FLOPs of a forward and a backward pass, attention over whole sequences of one length."""
        fields, hf, length = self.fields, self.hf, self.fields["mean_total_tokens"]
        if not length or not fields["figures"].get("tflops_per_gpu"):
            raise Cannot("sequence length or TFLOP/s are not given")
        each = max(1, self.count // self.dp)
        seconds = self.trainer.seconds(Work(each, each * length, each * length**2), TRAINED, 3)
        cost = Cost.of(hf, head_dim(hf))
        flops = 3 * self.count * (cost(length) + 2 * length * hf.hidden_size * hf.vocab_size)
        return flops / seconds / fields["n_gpus"] / 1e12
