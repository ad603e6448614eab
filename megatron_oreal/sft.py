"""A supervised start on the same engine:

    megatron-oreal sft model.path=DIR data.train=FILE.jsonl run_dir=DIR steps=1000
    megatron-oreal sft model.path=DIR data.train=FILE.jsonl run_dir=DIR eval.data=FILE.jsonl resume=auto

Rows of the set have question and response (`megatron-oreal select` makes one of sampled answers). The result is a Hugging Face folder,
<run_dir>/hf, for `model.path` of a run; beside it metrics.jsonl, checkpoints/ and summary.json, as `train` leaves them. SIGTERM and
SIGUSR1 make it save and end; resume=auto goes on. Where eval.data, eval.sets or eval.validation name questions, engines are started with
it, which answer them every eval.interval steps. `python -m megatron_oreal.sft` is the same command.
"""

import sys
from typing import TYPE_CHECKING

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import SftConfig
from megatron_oreal.plan.start import refuse_what_cannot_run
from megatron_oreal.trajectory import Directive, TrainBatch, Work

if TYPE_CHECKING:
    from megatron_oreal.coordinator.supervised import SupervisedCoordinator

MAIN_KEYS = (
    "model.path data.train data.fields run_dir resume seed steps examples_per_step optimizer.lr optimizer.warmup_steps "
    "learn.tokens_per_micro_batch rollout.stop_word eval.data eval.interval eval.validation checkpoint.interval"
)
COMMAND = Command("sft", "megatron_oreal.sft", __doc__, SftConfig, "sft", MAIN_KEYS)


def run(config: SftConfig) -> None:
    """Train to the last step, or until asked to stop; leaves metrics.jsonl, checkpoints/, summary.json and hf/ in config.run_dir.

    The loop of train.py with examples in the place of sampled answers: the engines, where there are any, get the weights only to be
    evaluated. Without a publisher nothing is.
    """
    from megatron_oreal.coordinator.conductor import Conductor  # imported late: whoever only starts ranks needs no Megatron
    from megatron_oreal.parts import open_supervised

    with open_supervised(config) as parts:
        workers, learner, publisher, progress = parts.workers, parts.learner, parts.publisher, parts.progress
        if publisher:
            publisher.publish(learner.policy.gpt, progress.version)
            progress.evaluated(workers.follow("evaluate", Conductor.evaluate, progress.step, progress.version))
            publisher.make_room()

        for step in progress.steps():
            drawn = workers.follow("data", draw, step, progress.version, progress.pending)
            if progress.stopped(drawn):
                break
            published, evaluated = {}, Directive()
            update = learner.train(drawn.batch, step)
            progress.trained(step, drawn, update)
            if publisher and config.eval.wanted(step, config.steps):
                published = publisher.publish(learner.policy.gpt, progress.version)
                evaluated = workers.follow("evaluate", Conductor.evaluate, step, progress.version)
                publisher.make_room()
            progress.end_step(step, drawn, update, published, evaluated)
        progress.finish()


def draw(coordinator: "SupervisedCoordinator", step: int, version: int, drawn: TrainBatch | None = None) -> Work[Directive]:
    """Rank 0's part of a step: its examples; `drawn`: they had been drawn when the run was stopped."""
    yield from ()  # no engine is waited for
    return Directive(drawn) if drawn else coordinator.draw()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments, refuse_what_cannot_run)


if __name__ == "__main__":
    sys.exit(main())
