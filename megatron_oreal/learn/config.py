"""The ranks that train, how they train, and what is kept of a run. Defaults and meanings stand in conf/."""

from dataclasses import dataclass
from math import inf

from megatron_oreal.checked import Checked, Require
from megatron_oreal.model.config import Layout


@dataclass(frozen=True)
class ParallelConfig(Layout):
    """The ranks of a job, and how long they wait for each other: conf/parallel/. All three models share it."""

    dp: int | None
    timeout_s: float
    control_timeout_s: float
    lost_after_s: float

    def check(self, require: Require) -> None:
        super().check(require)
        require(self.dp is None or self.dp >= 1, f"dp={self.dp} must be at least 1")
        for name in ("timeout_s", "control_timeout_s", "lost_after_s"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be above 0")

    @property
    def ranks(self) -> int:
        """The fewest that it wants: what is started where nobody has started any."""
        return self.tp * self.pp * self.cp * (self.dp or 1)

    def data_parallel(self, world_size: int) -> int:
        """DP size of a world; raises ValueError where the world does not divide, or is not the one asked for."""
        model_parallel = self.tp * self.pp * self.cp
        if world_size % model_parallel or (self.dp is not None and self.dp * model_parallel != world_size):
            dp = "DP" if self.dp is None else f"DP {self.dp}"
            raise ValueError(f"parallel: world size {world_size} is not TP {self.tp} x PP {self.pp} x CP {self.cp} x {dp}")
        return world_size // model_parallel


STIFFEST = 0.98
"""The largest beta of moments in bfloat16. Where gradients vanish, a step takes (1 - beta) of a mean from it, and numbers of 8 bits round
what is less than 1/512 of it away to the mean itself: at 0.999 it never falls (tests/learn/test_precision.py)."""


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """AdamW with linear warm-up and cosine decay (spec, Schedule): conf/optimizer/."""

    lr: float
    min_lr: float
    warmup_steps: int
    weight_decay: float
    weight_decay_on_norms: bool
    betas: tuple[float, float]
    eps: float
    clip_grad: float
    moments: str
    on_host: bool

    def check(self, require: Require) -> None:
        require(0 < self.lr < inf, f"lr={self.lr} must be above 0")
        require(0 <= self.min_lr <= self.lr, f"min_lr={self.min_lr} must lie between 0 and lr={self.lr}")
        require(self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must not be negative")
        require(0 <= self.weight_decay < inf, f"weight_decay={self.weight_decay} must not be negative")
        require(all(0 <= beta < 1 for beta in self.betas), f"betas={list(self.betas)} must be at least 0 and below 1")
        require(0 < self.eps < inf, f"eps={self.eps} must be above 0")
        require(self.moments in ("float32", "bfloat16"), f"moments={self.moments} must be float32 or bfloat16")
        require(
            self.moments != "bfloat16" or max(self.betas) <= STIFFEST,
            f"moments=bfloat16 needs betas of at most {STIFFEST}, not {list(self.betas)}: 8 bits cannot hold what a step changes then",
        )
        require(self.moments == "float32" or not self.on_host, f"moments={self.moments} is of optimizers on GPUs, on_host=true of float32")
        require(self.clip_grad > 0, f"clip_grad={self.clip_grad} must be above 0")


@dataclass(frozen=True)
class PolicyConfig(Checked):
    """How the policy is updated: conf/policy/."""

    optimizer: OptimizerConfig
    freeze_steps: int
    warmup_counts_frozen: bool

    def check(self, require: Require) -> None:
        require(self.freeze_steps >= 0, f"freeze_steps={self.freeze_steps} must not be negative")

    def scheduled(self, step: int) -> int:
        """The step of the policy's schedule that a step of the run is."""
        return step if self.warmup_counts_frozen else step - self.freeze_steps


@dataclass(frozen=True)
class TokenRMConfig:
    """How the token reward model is updated: conf/token_rm/. Whether there is one is objective.token_rm."""

    optimizer: OptimizerConfig


@dataclass(frozen=True)
class LearnConfig(Checked):
    """The training step's own settings: conf/learn/."""

    tokens_per_micro_batch: int
    overlap_grad_reduce: bool
    overlap_param_gather: bool

    def check(self, require: Require) -> None:
        require(
            self.overlap_grad_reduce or not self.overlap_param_gather,
            "overlap_param_gather=true needs overlap_grad_reduce=true: Megatron has no such order of messages",
        )
        require(self.tokens_per_micro_batch >= 1, f"tokens_per_micro_batch={self.tokens_per_micro_batch} must be at least 1")


@dataclass(frozen=True)
class CheckpointConfig(Checked):
    """What is kept of a run so that it can go on: conf/checkpoint/; see TrainConfig.resume."""

    interval: int
    keep_last: int
    keep_best: int
    timeout_s: float
    hf_interval: int
    hf_keep_last: int

    def check(self, require: Require) -> None:
        least_values = (("interval", 1), ("keep_last", 1), ("keep_best", 0), ("timeout_s", 1), ("hf_interval", 0), ("hf_keep_last", 1))
        for name, least in least_values:
            require(getattr(self, name) >= least, f"{name}={getattr(self, name)} must be at least {least}")
