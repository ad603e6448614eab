"""What the objective can be: the paper, the authors' released trainer, and what lies between them, one value a difference."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from megatron_oreal.checked import Checked, Require

CHOICES = {
    "loss": ("oreal", "reinforce"),
    "advantage": ("rloo", "grpo"),
    "keep": ("pair", "all"),
    "score_position": ("previous", "token"),
    "weight_from": ("cumulative_mean", "score"),
    "rescale": ("threshold", "topk"),
    "positive_scale": ("advantage", "one"),
    "negative_scale": ("advantage", "one_minus_pass_rate"),
    "kl": ("k3", "k1", "mse"),
}


def require_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    """ValueError naming the field, the value and what is allowed."""
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}, allowed: {', '.join(allowed)}")


@dataclass(frozen=True)
class Objective(Checked):
    """The objective's choices; conf/objective/released.yaml says what each means.

    The defaults are that file's, so that the algorithm can be run without any: what the authors' trainer does. A test holds them together.

    Raises ValueError (field and allowed values) for values outside of the allowed ones, a line each.
    """

    advantage: str = "rloo"
    keep: str = "pair"
    token_rm: bool = True
    score_position: str = "previous"
    weight_from: str = "cumulative_mean"
    rescale: str = "threshold"
    threshold: float = 0.5
    topk_ratio: float = 0.25
    positive_scale: str = "advantage"
    negative_scale: str = "advantage"
    eta: float = 0.5
    beta: float = 0.01
    kl: str = "k3"
    importance_cap: float | None = None
    loss: str = "oreal"

    def check(self, require: Require) -> None:
        for name, inside, allowed in (
            *((name, getattr(self, name) in choices, ", ".join(choices)) for name, choices in CHOICES.items()),
            ("threshold", 0 <= self.threshold < 1, "0 <= threshold < 1"),
            ("topk_ratio", 0 < self.topk_ratio <= 1, "0 < topk_ratio <= 1"),
            ("eta", 0 <= self.eta < float("inf"), "0 <= eta, finite"),
            ("importance_cap", self.importance_cap is None or self.importance_cap > 0, "above 0, or null"),
            ("beta", 0 <= self.beta < float("inf"), "0 <= beta, finite"),
        ):
            require(inside, f"{name} is {getattr(self, name)!r}, allowed: {allowed}")

    @classmethod
    def released(cls, **changes: object) -> Self:
        """The released trainer's objective, with single fields changed."""
        return cls(**changes)

    @classmethod
    def paper(cls, **changes: object) -> Self:
        """The paper's Eqs. 10-12, with single fields changed."""
        return cls(
            **{
                "score_position": "token",
                "weight_from": "score",
                "positive_scale": "one",
                "negative_scale": "one_minus_pass_rate",
                **changes,
            }
        )


@dataclass(frozen=True)
class Counts:
    """The denominators of the losses: counts over the WHOLE global batch, never of a micro-batch or a rank."""

    right_tokens: int  # response tokens of right trajectories
    wrong_tokens: int  # response tokens of wrong trajectories
    tokens: int  # response tokens of all trajectories
    trajectories: int

    def __post_init__(self) -> None:
        assert min(getattr(self, f.name) for f in fields(self)) >= 0, f"a count is negative: {self}"
        assert self.tokens == self.right_tokens + self.wrong_tokens, f"tokens are not right plus wrong ones: {self}"

    @classmethod
    def from_rewards(cls, rewards: Sequence[float], response_lengths: Sequence[int]) -> Self:
        """Counts of a global batch from its rewards (+1 / -1) and response lengths (tokens), one of each a trajectory."""
        if len(rewards) != len(response_lengths):
            raise ValueError(f"{len(rewards)} rewards for {len(response_lengths)} response lengths")
        right = sum(n for r, n in zip(rewards, response_lengths, strict=True) if r > 0)
        tokens = sum(response_lengths)
        return cls(right_tokens=right, wrong_tokens=tokens - right, tokens=tokens, trajectories=len(rewards))
