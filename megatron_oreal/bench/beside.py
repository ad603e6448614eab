"""What the planner says of the steps that are measured, stage by stage: the figures of `megatron-oreal plan`, of the ranks alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_oreal.bench.measure import GATHER, STEP
from megatron_oreal.devices import CPU
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.host.fit import fit_of
from megatron_oreal.plan.host.need import Place
from megatron_oreal.plan.memory import NUMBER_BYTES, whole
from megatron_oreal.plan.shapes import Architecture
from megatron_oreal.plan.timing import FLATTENED_BYTES_S, Part, handed_over_s, spread_of


@dataclass(frozen=True)
class Prediction:
    """See Measured; a list has a value for each pipeline stage."""

    parameters: int  # of the whole model
    seconds: dict[str, float]  # empty where the planner knows memory alone
    held: list[float]
    tensors: list[float | None]
    prices: str  # where the seconds of operations are from; empty where there are none


def predict(config: Planned, model: Architecture) -> Prediction:
    """Without what engines would hold. Raises ValueError where the layout does not divide the model."""
    parameters = whole(model.sizes)
    if config.plan.gpu == CPU:
        place = Place(config.plan.gpus, config.plan.gpus)  # all ranks are asked for, wherever they are
        config = replace(config, learn=replace(config.learn, tokens_per_micro_batch=spread_of(config, model.sizes).fullest))
        held = {rank.stage: float(rank.training) for rank in fit_of(config, model.sizes, lambda _: place).need.ranks}
        return Prediction(parameters, {}, [held[stage] for stage in sorted(held)], [None] * len(held), "")
    plan = make_plan(config, model, builds=False)
    handed_s = handed_over_s(parameters, NUMBER_BYTES[config.model.dtype], switched=False, bytes_s=FLATTENED_BYTES_S)
    seconds = _by_stage(plan.parts) | {GATHER: handed_s}
    tensors = [stage.state + stage.activations for stage in plan.stages]
    held = [known + stage.allowance for known, stage in zip(tensors, plan.stages, strict=True)]
    return Prediction(parameters, seconds, held, tensors, plan.prices)


def _by_stage(parts: Sequence[Part]) -> dict[str, float]:
    """Seconds of the stages of learn.step."""
    names = {"token RM": "token_rm", "reference": "reference", "policy": "policy"}
    training = [part for part in parts if part.name in names]
    passes = {names[part.name]: part.seconds - part.update for part in training}
    step = sum(part.seconds for part in parts if part in training or part.name == "offload")
    return passes | {"optimizer": sum(part.update for part in training), STEP: step}
