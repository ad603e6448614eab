"""What a run needs before any GPU is taken: memory of every pipeline stage, and seconds of every part of a step.

    megatron-oreal plan experiment=small model.path=DIR
    megatron-oreal plan experiment=oreal_32b plan.gpu=h200 plan.lengths.median=3000 --search

Takes a training run's overrides, and those of conf/plan/. The shape is that of
model.path's config.json, or plan.shape's where that folder is elsewhere; weights are not needed. Memory is estimated by a formula;
--build builds every stage's real models instead, without memory. --search tries other layouts for the same GPUs and plans the fastest
that fits, under more schedules. --gpus, --why and --picture answer further questions; --published FILE prints what others measured beside
what is planned for it instead. --json prints one object with all figures, in bytes and seconds. Evaluation and checkpoints are not in a
step's seconds.

Exit status: 0 fits, 1 will not fit (or the build failed), 2 wrong input.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from megatron_oreal.command import Command, fail, guarded
from megatron_oreal.devices import CPU
from megatron_oreal.monitor.logs import quiet_libraries
from megatron_oreal.plan.build import BuildFailed
from megatron_oreal.plan.compose import compose, with_section
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.shapes import architecture_of

MAIN_KEYS = (
    "model.path plan.gpus plan.gpu plan.gpus_per_host plan.shape plan.mixed plan.lengths.median plan.efficiency.matmul memory_gib "
    "parallel.tp parallel.pp parallel.dp compute.recompute rollout.engines rollout.tp rollout.placement learn.tokens_per_micro_batch"
)
COMMAND = Command("plan", "megatron_oreal.plan.command", __doc__, Planned, "plan", MAIN_KEYS)


def run(arguments: argparse.Namespace) -> int:
    """Plan and report; returns the exit status."""
    config = compose(arguments.overrides)
    if config.plan.gpu == CPU:
        return _without_gpus(arguments, config)
    from megatron_oreal.plan import fit, search  # here, because it takes seconds

    model = architecture_of(config.model.path, config.plan.shape)
    found = None
    if arguments.search:
        found, plan = search.confirmed(config, model, builds=arguments.build)
        plan = plan or fit.make_plan(config, model, builds=arguments.build)
    else:
        plan = fit.make_plan(config, model, builds=arguments.build)
    _print(arguments, plan, search.suggestion(plan) if plan.obstacles else None, found)
    return 1 if plan.obstacles else 0


def _print(arguments: argparse.Namespace, plan, suggestion: str | None, found) -> None:
    """The plan, and what was asked of it besides."""
    from megatron_oreal.plan import report, schedules
    from megatron_oreal.plan.answers import gpus, picture, why

    under = schedules.schedules(plan, schedules.SEARCHED if arguments.search else schedules.CONTINUOUS, arguments.search)
    reasons = why.reasons(plan) if arguments.why else None
    rows = gpus.bought(plan.config, plan.model, gpus.counts_of(arguments.gpus)) if arguments.gpus else None
    if arguments.picture:
        picture.write(plan, arguments.picture)
    if arguments.json:
        besides = {"why": reasons and [asdict(r) for r in reasons], "by_gpus": rows and gpus.as_json(rows)}
        print(json.dumps(report.as_json(plan, suggestion, found) | {"schedules": [asdict(s) for s in under]} | besides))
        return
    print(report.as_text(plan, suggestion, found))
    for block in (schedules.as_text(under), reasons and why.as_text(reasons), rows and gpus.as_text(rows)):
        if block:
            print("", *block, sep="\n")


def _without_gpus(arguments: argparse.Namespace, config) -> int:
    """Memory alone, always by formula: nobody has measured how fast such a machine is."""
    from megatron_oreal.plan.host import report
    from megatron_oreal.plan.host.fit import fit_of
    from megatron_oreal.plan.host.need import Place

    if arguments.search:
        raise ValueError("plan: --search compares layouts of GPUs; without the fewest ranks need least, and what would fit is said anyway")

    model = architecture_of(config.model.path, config.plan.shape)
    hf, shape = model.sizes, model.source

    def places(parallel) -> Place:
        ranks = parallel.ranks if parallel.dp else config.plan.gpus
        return Place(ranks, ranks)

    fit = fit_of(config, hf, places)
    print(json.dumps(report.as_json(config, hf, shape, fit)) if arguments.json else report.as_text(config, hf, shape, fit))
    return 0 if fit.fits else 1


def _published(arguments: argparse.Namespace) -> int:
    from megatron_oreal.plan.published import compared
    from megatron_oreal.plan.published.command import compare

    rows, left = compare(arguments.published)
    print(json.dumps(compared.as_json(rows, left)) if arguments.json else compared.as_text(rows, left))
    return 0


def plan(arguments: list[str]) -> int:
    """Read the command line, then as `run`."""
    parser = COMMAND.parser()
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--search", action="store_true", help="plan the fastest layout that fits instead of the configured one")
    parser.add_argument(
        "--build", action="store_true", help="build every stage's models (half a minute) instead of estimating their memory"
    )
    parser.add_argument("--gpus", metavar="N,N,...", help="and a table of what each number of GPUs buys")
    parser.add_argument("--why", action="store_true", help="and what costs most, with an override that would change each")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="and an SVG of memory and of a step")
    parser.add_argument("--published", metavar="FILE", type=Path, help="hold the planner to published figures, a JSON object a line")
    asked = parser.parse_intermixed_args(arguments)
    if asked.published:
        return _published(asked)
    asked.overrides = with_section(asked.overrides)
    if COMMAND.tells(parser, asked, compose):
        return 0
    quiet_libraries()
    try:
        return run(asked)
    except BuildFailed as error:
        return fail(1, error)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: plan(list(sys.argv[1:] if arguments is None else arguments)))


if __name__ == "__main__":
    sys.exit(main())
