"""What the ablation on the chains compares: variants of the objective, under two budgets (launch/ablation.md)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from megatron_oreal.config import TrainConfig

SAMPLED, TRAINED = "sampled", "trained"
"""Budgets: every variant samples as many questions and answers; or is trained on as many answers, in as many updates."""
START = "start"
RATES = (1.5e-4, 5e-5, 4.5e-4)
"""The policy's learning rates that every variant is tried with, in the order in which they are."""
RM_FACTOR = 4
"""The token RM's rate in terms of the policy's, as published: a variant that has one is tuned in no more tries than the others."""
TUNING_SEEDS, COUNTED_SEEDS = (0, 1, 2), (10, 11, 12, 13, 14, 15)
"""One more than five: the start of seed 10 has not learnt the task (launch/ablation.md)."""
WITHOUT_RM = ("objective.token_rm=false", "policy.freeze_steps=0")
ALL = (*WITHOUT_RM, "objective.keep=all")


@dataclass(frozen=True)
class Variant:
    """One row of the tables."""

    name: str
    overrides: tuple[str, ...]  # of experiment=chains, which is Equations 10 to 12

    @property
    def keeps_all(self) -> bool:
        return "objective.keep=all" in self.overrides

    @property
    def token_rm(self) -> bool:
        return "objective.token_rm=false" not in self.overrides


VARIANTS = (
    Variant("REINFORCE", ("objective.loss=reinforce", *ALL)),
    Variant("+ reshaping", ("objective.positive_scale=advantage", *ALL)),
    Variant("+ cloning", ALL),
    Variant("pairs, no token RM", WITHOUT_RM),
    Variant("+ token RM", ()),
    Variant("+ token RM, as released", ("objective=released",)),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}
BASELINE, SAME_PAIRS, OREAL = "REINFORCE", "pairs, no token RM", "+ token RM"


@dataclass(frozen=True)
class Run:
    """One training run, or (variant START) the supervised start of a seed."""

    variant: str
    budget: str
    seed: int
    lr: float

    @classmethod
    def start(cls, seed: int) -> "Run":
        return cls(START, "", seed, 0.0)

    @property
    def name(self) -> str:
        """Of its folder."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.variant).split()
        return "-".join((*words, self.budget, f"{self.lr:g}"))


def budget_of(variant: Variant, budget: str) -> str:
    """Under which budget a table's run was made: those with a token RM are the same runs in both, the others are held to them."""
    return SAMPLED if variant.token_rm else budget


def all_runs(seeds: Sequence[int], rates: dict[tuple[str, str], Iterable[float]]) -> list[Run]:
    """Seed by seed, and within a seed the first rate of all before the second of any; `rates` of each variant and budget."""
    pairs = [(variant, budget) for budget in (SAMPLED, TRAINED) for variant in VARIANTS if budget_of(variant, budget) == budget]
    rounds = list(zip_longest(*(rates[variant.name, budget] for variant, budget in pairs)))
    tried = [(v.name, budget, rate) for each in rounds for (v, budget), rate in zip(pairs, each, strict=True) if rate is not None]
    return [Run(name, budget, seed, rate) for seed in seeds for name, budget, rate in tried]


def tuning_rates() -> dict[tuple[str, str], Iterable[float]]:
    """All alike, under one budget: the other takes over what is found."""
    return {(variant.name, budget): RATES if budget == SAMPLED else () for variant in VARIANTS for budget in (SAMPLED, TRAINED)}


def overrides_of(run: Run, plain: TrainConfig) -> list[str]:
    """Of the experiment; `plain`: the experiment without them.

    Under TRAINED there are as many updates as the variants with a token RM make after their frozen steps, and whoever keeps all samples
    asks so few questions that a step's answers are as many as theirs, two a question.
    """
    variant = BY_NAME[run.variant]
    found = [*variant.overrides, f"seed={run.seed}"]
    for model, lr in (("policy", run.lr), ("token_rm", RM_FACTOR * run.lr)) if variant.token_rm else (("policy", run.lr),):
        found += [f"{model}.optimizer.lr={lr:g}", f"{model}.optimizer.min_lr={lr / 5:g}"]
    if run.budget == TRAINED:
        found.append(f"steps={plain.steps - plain.policy.freeze_steps}")
    if run.budget == TRAINED and variant.keeps_all:
        found.append(f"data.questions_per_step={max(1, 2 * plain.data.questions_per_step // plain.rollout.samples)}")
    return found
