"""From a command line to what is planned."""

from collections.abc import Iterable, Sequence

from omegaconf import OmegaConf

from megatron_oreal.config import load
from megatron_oreal.devices import CPU, DEVICES
from megatron_oreal.keys.files import conf_dir
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import SHAPES

BENCH = ("debug=bench", "mode=bench")


def compose(overrides: Sequence[str]) -> Planned:
    """From a training run's overrides and the planner's; what conf/plan/ says of the experiment goes with it.

    Raises:
        ValueError: as config.load; or a GPU or a shape that the planner does not know.
    """
    planned = load(Planned, "plan", with_section(overrides))
    _refuse_unknown("gpu", planned.plan.gpu, (*DEVICES, CPU))
    if planned.plan.shape is not None:
        _refuse_unknown("shape", planned.plan.shape, SHAPES)
    return planned


def asks_for_bench(overrides: Sequence[str]) -> bool:
    """Whether a training run is only to be timed beside its plan (megatron_oreal.bench)."""
    return any(word in BENCH for word in overrides)


def compose_bench(overrides: Sequence[str]) -> Planned:
    """As compose; how many GPUs there are is counted when the ranks have met, and need not be given."""
    return compose(["plan.gpus=1", *overrides])


def with_section(overrides: Sequence[str]) -> list[str]:
    """And the file of conf/plan/ that goes with the experiment, where none is chosen."""
    chosen = next((o.partition("=")[2] for o in overrides if o.startswith("experiment=")), "")
    section = None if any(o.startswith("plan=") for o in overrides) else _section_of(chosen) or (f"plan.gpu={CPU}" in overrides and CPU)
    return [*overrides, *([f"plan={section}"] if section else [])]


def _section_of(experiment: str) -> str | None:
    """The file of conf/plan/ for an experiment: its own, else that of the experiment which it changes; None where neither has one."""
    if (conf_dir() / "plan" / f"{experiment}.yaml").is_file():
        return experiment
    file = conf_dir() / "experiment" / f"{experiment}.yaml"
    changed = OmegaConf.load(file).get("defaults", []) if file.is_file() else []
    return next((section for one in changed if isinstance(one, str) and (section := _section_of(one))), None)


def _refuse_unknown(key: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"plan.{key}={value!r} is not one of {', '.join(known)}")
