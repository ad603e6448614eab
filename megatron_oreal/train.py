"""OREAL training, by hand, under torchrun or under srun:

    megatron-oreal train experiment=small model.path=DIR data.train=FILE.jsonl
    megatron-oreal train experiment=oreal_7b model.path=DIR data.train=FILE.jsonl run_dir=DIR policy.optimizer.lr=1e-6 resume=auto

Leaves metrics.jsonl, checkpoints/, summary.json and hf/ in run_dir. Started by hand it starts as many ranks here as `parallel` needs.
SIGTERM and SIGUSR1 make it save and end; resume=auto goes on. `python -m megatron_oreal.train` is the same command.

The loop in `run` is Algorithm 1 of arXiv 2502.06781. Where it differs from the paper's text:
1. Best-of-N sampling keeps one right and one wrong trajectory a question (as released), not all right ones; objective.keep.
2. Token RM scores are read before the token RM's own update of the step, so its training forward serves (as released).
3. One optimizer step a rollout: the current log-probabilities are the old ones.
4. Preset `released` by default; `objective=paper` is Equations 10 to 12 as printed.

             +----------------------------- policy version v -----------------------------+
             v                                                                            |
    prompts -> rollout -> verify -> select -> [shared with all ranks] -> token RM, reference, policy -> publish v+1 -> evaluate
    `---- coordinator, rank 0 alone -----'                           `------- learner --------'     publisher   coordinator
"""

import sys
from typing import TYPE_CHECKING

from megatron_oreal.bench import command as bench
from megatron_oreal.command import Command, run_command
from megatron_oreal.config import TrainConfig
from megatron_oreal.plan.compose import asks_for_bench
from megatron_oreal.plan.start import refuse_what_cannot_run
from megatron_oreal.trajectory import Directive, TrainBatch, Work

if TYPE_CHECKING:
    from megatron_oreal.coordinator.coordinator import Coordinator

MAIN_KEYS = (
    "model.path data.train data.sets data.fields data.questions_per_step run_dir resume seed steps rollout.samples "
    "rollout.max_new_tokens rollout.placement policy.optimizer.lr objective.token_rm parallel.tp learn.tokens_per_micro_batch eval.data "
    "eval.interval checkpoint.interval"
)
COMMAND = Command("train", "megatron_oreal.train", __doc__, TrainConfig, "train", MAIN_KEYS)


def run(config: TrainConfig) -> None:
    """Train to the last step, or until asked to stop; leaves metrics.jsonl, checkpoints/, summary.json and hf/ in config.run_dir.

    config.mode may leave parts out (see debug.py): without a learner nothing is trained, without a publisher nothing published or
    evaluated. What the coordinator does on rank 0, `workers` share with all ranks.
    """
    from megatron_oreal.coordinator.coordinator import Coordinator  # imported late: whoever only starts ranks needs no Megatron
    from megatron_oreal.learn.step import StepResult
    from megatron_oreal.parts import open_parts

    with open_parts(config) as parts:
        workers, learner, publisher, progress = parts.workers, parts.learner, parts.publisher, parts.progress
        if publisher:  # a sync that cannot work is found out now, not when the policy first changes
            publisher.publish(learner.policy.gpt, progress.version)
            progress.evaluated(workers.follow("evaluate", Coordinator.evaluate, progress.step, progress.version))

        for step in progress.steps():
            collected = workers.follow("rollout", collect, step, progress.version, progress.pending)
            if progress.stopped(collected):
                break
            update, published, evaluated = StepResult(), {}, Directive()
            if learner and collected.batch.samples:
                asleep = publisher and publisher.make_room()
                update = learner.train(collected.batch, step)
                progress.trained(step, collected, update)
                if publisher and (update.policy_changed or asleep):
                    published = publisher.publish(learner.policy.gpt, progress.version)
            if publisher:
                evaluated = workers.follow("evaluate", Coordinator.evaluate, step, progress.version)
            progress.end_step(step, collected, update, published, evaluated)
        progress.finish()


def collect(coordinator: "Coordinator", step: int, version: int, sampled: TrainBatch | None = None) -> Work[Directive]:
    """Rank 0's part of an iteration: questions in, the batch of the optimizer step out; `sampled`: it had been done already."""
    if sampled:
        return Directive(sampled)
    prompts = coordinator.draw(step)
    trajectories = coordinator.rollout(prompts, version)  # one by one, as they finish
    groups = yield from coordinator.verify(trajectories)  # while others are being sampled
    return coordinator.select(step, groups)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if asks_for_bench(arguments):
        return bench.main(arguments)
    return run_command(COMMAND, run, arguments, refuse_what_cannot_run)


if __name__ == "__main__":
    sys.exit(main())
