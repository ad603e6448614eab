"""Times training steps in a run's own layout, beside their plan: no engines, no questions, random weights.

    megatron-oreal train experiment=small debug=bench
    srun python -m megatron_oreal.train experiment=oreal_32b debug=bench plan.lengths.median=3000 bench_steps=5

Takes a training run's overrides, and those of `megatron-oreal plan`, which say how long trajectories are. The sizes are those of
model.path's config.json, or plan.shape's where no folder is given. What of plan.* says which machine it is, is found out.
Leaves bench.json in run_dir.
"""

from megatron_oreal.command import Command, run_command
from megatron_oreal.model.architecture import check_fields
from megatron_oreal.plan.compose import compose_bench, with_section
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.plan.start import refuse_what_cannot_fit_of

MAIN_KEYS = (
    "bench_steps model.path plan.shape run_dir plan.lengths.median plan.lengths.spread plan.lengths.prompt plan.mixed "
    "data.questions_per_step rollout.samples rollout.max_total_tokens parallel.tp parallel.pp parallel.dp compute.recompute "
    "learn.tokens_per_micro_batch objective.token_rm"
)
COMMAND = Command("train", "megatron_oreal.train", __doc__, Planned, "plan", MAIN_KEYS)


def check(config: Planned) -> None:
    """What can be seen before any rank is started.

    Raises:
        ValueError: there is neither a model nor a shape, it does not divide by the layout, or this machine cannot hold it; or no response
            fits behind the planner's prompt.
    """
    model = architecture_of(config.model.path, config.plan.shape)
    prompt, longest = config.plan.lengths.prompt, config.rollout.max_total_tokens
    check_fields(model.fields, config.parallel)
    if prompt >= longest:
        raise ValueError(f"plan.lengths.prompt={prompt} must be below rollout.max_total_tokens={longest}: no response would fit")
    refuse_what_cannot_fit_of(config, model.sizes)


def run(config: Planned) -> None:
    """Measure on all ranks; rank 0 prints, and writes <run_dir>/bench.json."""
    from megatron_oreal.bench.session import bench  # here, because whoever only starts ranks needs no Megatron

    bench(config, architecture_of(config.model.path, config.plan.shape))


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, with_section(arguments), check, compose_bench)
