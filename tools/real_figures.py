"""Figures of bench_real.py: what the steps of both sides took, as one shape, the FLOPs they cannot do without, and the table.

FLOPs are those of learn.flops (2 a weight and token of the layers; causal attention, 2 x channels of all heads a layer and squared token;
2 x hidden size x words of the LM head a response token), with the mean length of the trajectories for each of them.
    rollout    a forward pass: over each question's prompt once, over each response token of each sample once
    training   4 forward passes over prompts and responses that are trained on: the reference's, the policy's, and its backward pass's two
What is computed again (recomputed activations, a prompt for each sample, padding) does not count.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean

from tools.process_tree import Stage

PARTS = ("rollout", "reference", "policy", "optimizer", "sync")
TRAINING = ("reference", "policy", "optimizer")
PRODUCT_SIZE, PRODUCTS = 2048, 12
FIRST, STEPS, END = "until the first step's end", "in the steps", "after the last step"
UNNAMED = 0.05
"""Share of a step that no part holds, from which the table says so."""
DISTURBED = 0.1
"""Cores that others used, from which it does."""


@dataclass(frozen=True)
class Asked:
    """The work of a step, the same for both sides."""

    questions: int
    samples: int
    new_tokens: int
    steps: int

    @property
    def trajectories(self) -> int:
        return self.questions * self.samples


@dataclass(frozen=True)
class Step:
    """Of one side. Seconds, of all ranks together where there are several; tokens."""

    step: float  # from the end of the step before to the end of this one
    rollout: float  # questions in, verified answers out
    sampling: float  # of it: until the last token was there
    reference: float
    policy: float  # forward and backward passes
    optimizer: float  # with clipping
    sync: float  # new weights to whoever samples, with their proof
    response_tokens: float  # sampled
    trained_tokens: float  # prompts and responses
    trained: float  # trajectories
    reward: float  # mean, of 0 and 1

    @property
    def rest(self) -> float:
        """What no part holds."""
        return self.step - sum(getattr(self, part) for part in PARTS)

    @property
    def training(self) -> float:
        return sum(getattr(self, part) for part in TRAINING)


def mean_step(steps: Sequence[Step]) -> Step:
    return Step(*(mean(getattr(step, f.name) for step in steps) for f in fields(Step)))


def our_steps(rows: Sequence[dict], asked: Asked) -> list[Step]:
    """From the rows of metrics.jsonl. The first step has none before it, and is as long as it says itself."""
    steps, before = [], None
    for row in rows:
        step = row["time/step"] if before is None else row["time/elapsed"] - before
        before = row["time/elapsed"]
        parts = {part: row.get(f"time/{part}", 0.0) for part in PARTS}
        found = {
            "sampling": parts["rollout"] - row["time/verify_tail"],
            "response_tokens": row["response/length_mean"] * asked.trajectories,
            "trained_tokens": row["perf/tokens_per_second"] * sum(parts[part] for part in TRAINING),
            "trained": asked.trajectories - row["verify/left_out"] - row["select/empty_responses"],
            "reward": row["reward/pass_rate"],
        }
        steps.append(Step(step=step, **parts, **found))
    return steps


def trl_steps(rows: Sequence[dict], asked: Asked) -> list[Step]:
    """From the rows of real_trl.py: it trains on all that it samples, with the weights that it trains."""
    return [Step(**row, sync=0.0, trained=asked.trajectories) for row in rows]


@dataclass(frozen=True)
class Flops:
    """Of a step."""

    rollout: float
    training: float

    @classmethod
    def of(cls, step: Step, asked: Asked, hf) -> "Flops":
        """By the formula at the top; `hf`: the model's transformers config."""
        from megatron_oreal.learn.flops import StepCost  # imported late: they cost seconds, and are wanted when all is measured
        from megatron_oreal.learn.packing import Cost
        from megatron_oreal.model.gpt import head_dim

        cost = StepCost.of(hf, Cost.of(hf, head_dim(hf)), token_rm=False, reference=True)
        response, length = step.response_tokens / asked.trajectories, step.trained_tokens / step.trained
        prompt = length - response
        sampled = asked.trajectories * (cost.layers(length) - cost.layers(prompt)) + asked.questions * cost.layers(prompt)
        trained = step.trained * (cost.layers(length) + cost.head * response)
        return cls(sampled + cost.head * step.response_tokens, 4 * trained)


def matmul_peak() -> float:
    """The most float32 FLOP/s that this machine's cores reach in a large product, by torch.mm or by oneDNN's linear layer.

    Raises:
        ValueError: there is a GPU, whose peak and memory would be others.
    """
    import torch  # imported late: only --help is wanted now and then

    if torch.cuda.is_available():
        raise ValueError(
            "this machine has a GPU, and what is measured here is the memory and the peak of CPUs: hide it (CUDA_VISIBLE_DEVICES=)"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    a, b = (torch.randn(PRODUCT_SIZE, PRODUCT_SIZE) for _ in range(2))
    ways = [lambda: torch.mm(a, b)]
    if torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    with torch.inference_mode():
        fastest = min(_seconds(way) for way in ways for _ in range(PRODUCTS))
    torch.set_num_threads(threads)
    return 2.0 * PRODUCT_SIZE**3 / fastest


def _seconds(work: Callable) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Side:
    """What one side did and held."""

    name: str
    steps: list[Step]
    stages: dict[str, Stage]  # FIRST, STEPS and END

    def figures(self, asked: Asked, hf, peak: float) -> dict[str, float]:
        """The rows of the table: of a mean step, the first one apart."""
        step = mean_step(self.steps[1:])
        flops = Flops.of(step, asked, hf)
        in_steps = self.stages.get(STEPS, self.stages[FIRST])  # steps of less than a second pass unseen
        return {
            "rollout, s": step.rollout,
            "of it sampling, s": step.sampling,
            "reference, s": step.reference,
            "policy, s": step.policy,
            "optimizer, s": step.optimizer,
            "sync, s": step.sync,
            "rest, s": step.rest,
            "step, s": step.step,
            "first step, s": self.steps[0].step,
            "tokens sampled": step.response_tokens,
            "tokens trained, with prompts": step.trained_tokens,
            "right, %": 100 * step.reward,
            "rollout, tokens/s": step.response_tokens / step.rollout,
            "training, tokens/s": step.trained_tokens / step.training,
            "rollout, % of the peak": 100 * flops.rollout / step.rollout / peak,
            "training, % of the peak": 100 * flops.training / step.training / peak,
            "cores that others used": in_steps.others,
            "memory in the steps, GiB": in_steps.held.total,
            "memory in all, GiB": max(stage.held.total for stage in self.stages.values()),
        }

    def as_dict(self, asked: Asked, hf, peak: float) -> dict:
        steps = [asdict(step) | {"rest": step.rest} for step in self.steps]
        return {
            "name": self.name,
            "figures": self.figures(asked, hf, peak),
            "steps": steps,
            "stages": {n: asdict(s) for n, s in self.stages.items()},
        }


def report(asked: Asked, sides: Sequence[Side], hf, peak: float, model: str) -> dict:
    """All figures; ratios are ours to the other's."""
    found = {"asked": asdict(asked), "model": model, "peak_flops": peak, "sides": [side.as_dict(asked, hf, peak) for side in sides]}
    ours, *other = (side["figures"] for side in found["sides"])
    ratios = {name: ours[name] / other[0][name] for name in ours if other[0][name]} if other else {}
    return found | {"ratios": ratios}


def as_text(found: dict) -> str:
    """A report as a table, and lines below it."""
    asked, sides = found["asked"], found["sides"]
    work = f"{asked['questions']} questions x {asked['samples']} samples x {asked['new_tokens']} tokens at most"
    means = f"mean of {asked['steps'] - 1} steps after the first"
    lines = [f"{found['model']}; {work}; {means}; {len(os.sched_getaffinity(0))} cores, peak {found['peak_flops'] / 1e9:.0f} GFLOP/s", ""]
    heads = ["", *(side["name"] for side in sides), *(["ratio"] if found["ratios"] else [])]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name in sides[0]["figures"]:
        cells = [_number(side["figures"][name]) for side in sides]
        cells += [f"{found['ratios'][name]:.2f}" if name in found["ratios"] else ""] if found["ratios"] else []
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join([*lines, "", *_remarks(sides, asked["questions"] * asked["samples"])])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _remarks(sides: Sequence[dict], trajectories: int) -> list[str]:
    """What held the memory, and what the reader should not overlook."""
    lines = []
    for side in sides:
        stage, held = max(((name, stage["held"]) for name, stage in side["stages"].items()), key=lambda item: item[1]["total"])
        largest = ", ".join(f"{name} {gib:.2f}" for name, gib in list(held["processes"].items())[:5])
        lines.append(f"{side['name']}: most memory {stage}, GiB by process: {largest}")
        share = side["figures"]["rest, s"] / side["figures"]["step, s"]
        if abs(share) > UNNAMED:
            lines.append(f"{side['name']}: {share:.0%} of a step is in none of its parts")
        if side["figures"]["cores that others used"] > DISTURBED:
            lines.append(f"{side['name']}: others computed meanwhile: its seconds say little")
    whole = [step for side in sides for step in side["steps"] if step["trained"] == trajectories]
    prompts = {round(step["trained_tokens"] - step["response_tokens"]) for step in whole}
    if len(prompts) > 1:
        lines.append(f"the prompts differ: {', '.join(map(str, sorted(prompts)))} tokens")
    return lines
