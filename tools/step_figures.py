"""Shapes, samples and figures of bench_step.py: what a step has to compute by the planner's formulas, and the table of what it took."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import psutil
import torch
from transformers import AutoConfig

from megatron_oreal.devices import GIB
from megatron_oreal.learn.flops import StepCost
from megatron_oreal.learn.packing import Cost
from megatron_oreal.model.config import ONE_RANK
from megatron_oreal.model.gpt import head_dim
from megatron_oreal.plan.memory import Formula, Workload
from megatron_oreal.plan.stages import FRAGMENTATION, PROCESS_GIB
from megatron_oreal.trajectory import Sample

QWEN_7B = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
QWEN_32B = {"hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 19008}
TP8 = {"intermediate_size": 3456, "num_attention_heads": 5, "num_key_value_heads": 1}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
SHAPES = {  # name -> (fields of a transformers config, layers of the whole model)
    "32b-tp8": (QWEN_32B | TP8 | {"head_dim": 128}, 64),
    "32b-layers": (QWEN_32B | {"head_dim": 128}, 64),
    "7b": (QWEN_7B | {"head_dim": 128}, 28),
    "tiny": (TINY | {"head_dim": 16}, 2),
}
STAGES = ("token_rm", "reference", "policy", "optimizer", "else")
FILLED = 0.98  # of the micro-batches' room: so that packing finds them
MEDIAN, SPREAD, PROMPT = 0.27, 0.7, 0.018  # of response lengths, as conf/plan/default.yaml: 4500 and 300 of 16,384 tokens


@dataclass(frozen=True)
class Measured:
    """A run of one implementation, in a process of its own; medians over its steps."""

    device: str
    seconds: dict[str, float]  # of STAGES
    micro_batches: int
    peak_bytes: int | None  # of torch's allocator; None on a CPU
    losses: dict[str, float]  # of the last step
    ceiling: float | None = None  # FLOP/s of a square product; None with the plain way

    @property
    def step(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    shape: str
    layers: int
    tokens: int  # of a micro-batch
    micro_batches: int
    recompute: str
    dtype: str
    steps: int
    warm_up: int

    @property
    def hf(self):
        """transformers config of the shape with so many layers."""
        fields = SHAPES[self.shape][0] | {"num_hidden_layers": self.layers, "max_position_embeddings": 131072, "tie_word_embeddings": False}
        return AutoConfig.for_model("qwen2", rms_norm_eps=1e-6, rope_theta=1e6, architectures=["Qwen2ForCausalLM"], **fields)

    @property
    def samples(self) -> list[Sample]:
        """Trajectories of lognormal lengths that fill the micro-batches to FILLED, right and wrong in turn; always the same ones."""
        draw, prompt, samples = random.Random(0), max(1, round(PROMPT * self.tokens)), []
        vocab = SHAPES[self.shape][0]["vocab_size"]
        for _ in range(self.micro_batches):
            room = int(FILLED * self.tokens)
            while room > 2 * prompt:
                length = min(room, prompt + max(prompt, round(MEDIAN * self.tokens * math.exp(draw.gauss(0, SPREAD)))))
                length = room if room - length <= 2 * prompt else length
                ids = [draw.randrange(vocab) for _ in range(length)]
                reward = 1 - 2 * (len(samples) % 2)
                logprobs = [-math.log(vocab)] * (length - prompt)
                samples.append(Sample(f"q{len(samples) // 2}", ids[:prompt], ids[prompt:], reward, reward * 0.5, 0.5, 0, logprobs))
                room -= length
        return samples

    @property
    def predicted_bytes(self) -> float:
        """Peak of torch's allocator by the planner's formula: all three models' state, and the largest of their activations."""
        formula = Formula(self.hf, Workload(ONE_RANK, self.recompute, self.dtype, 1, self.tokens, self.micro_batches, "fused"))
        models = [formula.stage(role, 0) for role in ("policy", "token_rm", "reference")]
        return sum(m.weights + m.gradients + m.optimizer for m in models) + max(m.activations for m in models)


@dataclass(frozen=True)
class Work:
    """FLOPs of one step's stages."""

    computed: dict[str, float]
    needed: dict[str, float]


def work_of(samples: Sequence, hf, recompute: str) -> Work:
    """By the planner's figures; the head is counted for response tokens alone, which are all that it is computed for."""
    cost = Cost.of(hf, head_dim(hf))
    layers = sum(cost(s.length) for s in samples)
    attention = sum(cost.quadratic * s.length**2 for s in samples)
    mlp = sum(cost.feed_forward * s.length for s in samples)
    again = {"none": 0.0, "core_attn": attention, "mlp": mlp, "full": layers}[recompute]
    head = 2.0 * hf.hidden_size * hf.vocab_size * sum(len(s.response_ids) for s in samples)
    needed = StepCost.of(hf, cost, token_rm=True, reference=True).of_stages(samples, policy=True)
    twice = {"token_rm": again, "reference": 0.0, "policy": again + head}
    return Work({stage: needed[stage] + twice[stage] for stage in needed}, needed)


def layers_that_fit(asked: Asked) -> int:
    """As many as the planner would grant, with its allowances, up to the whole model's. `asked.layers` says nothing yet.

    Raises:
        ValueError: not even one.
    """
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available / 2
    room = (free - PROCESS_GIB * GIB) / (1 + FRAGMENTATION)
    fitting = [n for n in range(1, SHAPES[asked.shape][1] + 1) if replace(asked, layers=n).predicted_bytes <= room]
    if not fitting:
        raise ValueError(f"bench_step: not one layer of {asked.shape} fits {free / GIB:.1f} GiB with --tokens {asked.tokens}: take fewer")
    return fitting[-1]


def report(asked: Asked, ours: Measured, plain: Measured | None) -> dict:
    """All figures of a shape; FLOP/s are None for stages that are no matrix products."""
    samples, rows = asked.samples, {}
    tokens, work = sum(s.length for s in samples), work_of(samples, asked.hf, asked.recompute)
    for stage in (*STAGES, "step"):
        seconds = ours.step if stage == "step" else ours.seconds[stage]
        computed, needed = (sum(w.values()) if stage == "step" else w.get(stage) for w in (work.computed, work.needed))
        rows[stage] = {
            "seconds": seconds,
            "share_of_step": seconds / ours.step,
            "tokens_per_second": tokens / seconds if seconds else None,
            "flops": computed,
            "flops_per_second": computed and computed / seconds,
            "of_ceiling_computed": computed and computed / seconds / ours.ceiling,
            "of_ceiling_needed": needed and needed / seconds / ours.ceiling,
        }
    common = {"asked": asdict(asked), "tokens": tokens, "trajectories": len(samples), "predicted_bytes": asked.predicted_bytes}
    ratio = plain and plain.step / ours.step
    return common | {"ours": asdict(ours), "plain": plain and asdict(plain), "plain_over_ours": ratio, "stages": rows}


def as_text(found: dict) -> str:
    """A report as a table, and lines below it."""
    ours, plain, asked = found["ours"], found["plain"], found["asked"]
    kind = f"{found['tokens']:,} tokens of {found['trajectories']} trajectories in {ours['micro_batches']} micro-batches"
    model = f"{asked['shape']}, {asked['layers']} layers, {asked['dtype']}, recompute {asked['recompute']}"
    lines = [f"{model}; {ours['device']}; {kind}; ceiling {ours['ceiling'] / 1e12:.3g} TFLOP/s", ""]
    columns = ("stage", "s", "of the step", "tokens/s", "TFLOP/s", "of the ceiling, computed", "needed")
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for stage, row in found["stages"].items():
        speed = ["", "", ""]
        if row["flops"]:
            speed = [f"{row['flops_per_second'] / 1e12:.3g}", f"{row['of_ceiling_computed']:.1%}", f"{row['of_ceiling_needed']:.1%}"]
        cells = [stage, f"{row['seconds']:.3f}", f"{row['share_of_step']:.1%}", f"{row['tokens_per_second'] or 0:,.0f}", *speed]
        lines.append("| " + " | ".join(cells) + " |")
    peak = "not measured" if ours["peak_bytes"] is None else f"{ours['peak_bytes'] / 2**30:.2f} GiB"
    lines += ["", f"peak memory {peak}, by the planner's formula {found['predicted_bytes'] / 2**30:.2f} GiB"]
    if plain:
        held = "" if plain["peak_bytes"] is None else f", {plain['peak_bytes'] / 2**30:.2f} GiB"
        each = ", ".join(f"{stage} {plain['seconds'][stage]:.3f}" for stage in STAGES)
        lines.append(f"plain: {sum(plain['seconds'].values()):.3f} s ({each}){held}: {found['plain_over_ours']:.2f} times ours")
        names = [n for n in plain["losses"] if n in ours["losses"]]
        lines.append("last step, ours / plain: " + ", ".join(f"{n} {ours['losses'][n]:.5g} / {plain['losses'][n]:.5g}" for n in names))
    return "\n".join(lines)
