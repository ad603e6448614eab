"""What a run needs before any GPU is taken: memory of every pipeline stage, and seconds of every part of a step.

    python tools/plan.py experiment=small model.path=DIR [...]

    python tools/plan.py experiment=oreal_32b [key=value ...] [plan.key=value ...] [--json] [--search] [--formula]

Takes a training run's overrides, and those of conf/plan/ (plan.gpus=64 plan.gpu=h200 plan.lengths.median=3000). The shape is that of
model.path's config.json, or plan.shape's where that folder is elsewhere; weights are not needed. Every stage's real models are built
without memory; --formula estimates instead, in a second. --search tries other layouts for the same GPUs and builds the fastest that
fits. --json prints one object with all figures, in bytes and seconds. Evaluation and checkpoints are not in a step's seconds.

Exit status: 0 fits, 1 will not fit (or the build failed), 2 wrong input.
"""

import argparse
import json
import sys

from megatron_oreal.command import fail
from megatron_oreal.devices import CPU
from megatron_oreal.monitor.logs import quiet_libraries
from megatron_oreal.plan.build import BuildFailed
from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.shapes import shape_of, sizes_of


def run(arguments: argparse.Namespace, overrides: list[str]) -> int:
    """Plan and report; returns the exit status."""
    config = compose(overrides)
    if config.plan.gpu == CPU:
        return _without_gpus(arguments, config)
    from megatron_oreal.plan import fit, report, search  # here, because it takes seconds

    hf, shape = shape_of(config.model.path, config.plan.shape)
    found = None
    if arguments.search:
        found, plan = search.confirmed(config, hf, shape, builds=not arguments.formula)
        plan = plan or fit.make_plan(config, hf, shape, builds=not arguments.formula)
    else:
        plan = fit.make_plan(config, hf, shape, builds=not arguments.formula)
    suggestion = search.suggestion(plan) if plan.obstacles else None
    if arguments.json:
        print(json.dumps(report.as_json(plan, suggestion, found)))
    else:
        print(report.as_text(plan, suggestion, found))
    return 1 if plan.obstacles else 0


def _without_gpus(arguments: argparse.Namespace, config) -> int:
    """Memory alone, always by formula: nobody has measured how fast such a machine is."""
    from megatron_oreal.plan.host import report
    from megatron_oreal.plan.host.fit import fit_of
    from megatron_oreal.plan.host.need import Place

    if arguments.search:
        raise ValueError("plan: --search compares layouts of GPUs; without the fewest ranks need least, and what would fit is said anyway")

    hf, shape = sizes_of(config.model.path, config.plan.shape)

    def places(parallel) -> Place:
        ranks = parallel.ranks if parallel.dp else config.plan.gpus
        return Place(ranks, ranks)

    fit = fit_of(config, hf, places)
    print(json.dumps(report.as_json(config, hf, shape, fit)) if arguments.json else report.as_text(config, hf, shape, fit))
    return 0 if fit.fits else 1


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--search", action="store_true", help="plan the fastest layout that fits instead of the configured one")
    parser.add_argument("--formula", action="store_true", help="estimate the models' memory instead of building them")
    parser.add_argument("overrides", nargs="*", help="key=value, as of a training run")
    parsed = parser.parse_intermixed_args(arguments)
    quiet_libraries()
    try:
        return run(parsed, parsed.overrides)
    except ValueError as error:
        return fail(2, error)
    except BuildFailed as error:
        return fail(1, error)


if __name__ == "__main__":
    sys.exit(main())
