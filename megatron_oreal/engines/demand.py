"""How many answers an engine is asked for at one time: what its cache has to hold."""

from collections.abc import Iterable
from math import ceil, inf

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SftConfig, TrainConfig
from megatron_oreal.evaluation.config import EvalConfig, EvalSetsConfig
from megatron_oreal.rollout.config import RolloutConfig

Round = tuple[float, int]
"""Questions that are asked together, math.inf where nobody has counted them, and samples of each."""


def of_training(config: TrainConfig) -> int:
    """A step, the questions held out, or the test sets: what is asked beside the largest of them waits, where it has no room."""
    step = (ceil(config.data.questions_per_step * config.rollout.in_flight), config.rollout.samples)
    return at_one_time(config.rollout, [step, *_evaluation(config.eval)])


def of_supervised(config: SftConfig) -> int:
    return at_one_time(config.rollout, _evaluation(config.eval))


def of_evaluation(config: EvaluateConfig) -> int:
    return at_one_time(config.rollout, _sets(config.eval))


def of_passrate(config: PassrateConfig) -> int:
    return at_one_time(config.rollout, [(config.questions_at_once, config.rollout.samples)])


def _evaluation(config: EvalConfig) -> list[Round]:
    """The questions held out, and the test sets."""
    return [*((config.validation, samples) for samples in (1, config.validation_samples)), *_sets(config)]


def _sets(config: EvalSetsConfig) -> list[Round]:
    return [(inf, samples) for one in config.resolved().values() for samples in (1, one.samples)]


def at_one_time(rollout: RolloutConfig, rounds: Iterable[Round]) -> int:
    """The most that one engine has of any of these rounds: questions go to the engine with the least to do."""
    return max(ceil(min(rollout.concurrency, questions / rollout.engines)) * samples for questions, samples in rounds)
