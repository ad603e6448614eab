"""OREAL training: `python -m megatron_oreal.train experiment=NAME key=value ...` (by hand, under torchrun, or under srun)

The loop in `run` is Algorithm 1 of arXiv 2502.06781. Where it differs from the paper's text:
1. Best-of-N sampling keeps one right and one wrong trajectory a question (as released), not all right ones; objective.keep.
2. Token RM scores are read before the token RM's own update of the step, so its training forward serves (as released).
3. One optimizer step a rollout: the current log-probabilities are the old ones.
4. Preset `released` by default; `objective=paper` is Equations 10 to 12 as printed.

             +----------------------------- policy version v -----------------------------+
             v                                                                            |
    prompts -> rollout -> verify -> select -> [shared with all ranks] -> token RM, reference, policy -> publish v+1 -> evaluate
    `------------------ rank 0 only ------'
"""

import sys
import time
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_oreal.command import run_command
from megatron_oreal.config import TrainConfig, load
from megatron_oreal.debug import rollout_only, train_only
from megatron_oreal.monitor.metrics import rollout_metrics, sampled_tokens
from megatron_oreal.monitor.recorded import FOLDER, write_step
from megatron_oreal.selection import Enough
from megatron_oreal.stop import StopSignal
from megatron_oreal.trajectory import TrainBatch, Turn

if TYPE_CHECKING:
    from megatron_oreal.stages import Stages


def run(config: TrainConfig) -> None:
    """Train to the last step, or until asked to stop; leaves metrics.jsonl, checkpoints/, summary.json and hf/ in config.run_dir."""
    from megatron_oreal.stages import open_stages, read_inputs

    inputs = read_inputs(config)  # whatever can be wrong with the input is found here, before any GPU is taken

    from megatron_oreal.crew import Crew
    from megatron_oreal.learn.checkpoint import Checkpoints
    from megatron_oreal.learn.export import HFExports
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.learn.step import Learner
    from megatron_oreal.monitor.meter import Meter
    from megatron_oreal.monitor.profiler import Profiler
    from megatron_oreal.sync.publisher import Publisher

    stop, run_dir = StopSignal(), Path(config.run_dir)
    with Ranks(config.parallel, config.seed, run_dir / "stacks") as ranks, open_stages(config, inputs, ranks) as stages:
        ranks.enter("load")
        stages.make_room(ranks)
        learner = Learner(config, ranks)
        checkpoints = Checkpoints(run_dir, config.checkpoint, learner, ranks)
        exports = HFExports(run_dir, config.checkpoint, learner.models, ranks)
        state = checkpoints.restore(config.resume)
        stages.wait_ready()
        stages.go_on_from(state)
        ranks.barrier()
        publisher = Publisher(config, learner.models, ranks, stages.engines)
        crew = Crew(ranks, stages.rollout, learner.policy.gpt, publisher, stop)
        meter, profiler = Meter(ranks, learner.cost, config.model.dtype), Profiler(config.profile, run_dir, ranks)
        with publisher, profiler, crew.saved_if_it_fails(checkpoints, lambda: state):
            version, turn = state.version, Turn(state.pending)
            ranks.enter("sync")
            publisher.publish(learner.policy.gpt, version)  # a sync that cannot work is found out now, not when the policy first changes
            found = crew.conduct("evaluate", version, stages.evaluate, version, state.step)
            if found.best and state.step:  # its evaluation was cut when the run was asked to stop
                state = stages.state(state.step, version, state.pending)
                stages.note(checkpoints.save(state))
            for step in range(state.step + 1, config.steps + 1):
                if found.enough:
                    break
                meter.begin()
                profiler.begin(step)
                started, changed = time.perf_counter(), False
                turn = crew.conduct("rollout", version, collect, config, stages, step, version, state.pending)
                if turn.stop:
                    state = stages.state(step - 1, version, turn.batch) if turn.batch else state
                    break
                if turn.batch.samples:
                    asleep = stages.engines_sleep()
                    result = learner.train(turn.batch, step)
                    stages.note(result.metrics)
                    stages.record(step, turn.batch, result.token_weights)
                    changed = result.policy_changed
                    version += changed
                    state = stages.state(step, version, unwritten=True)
                    if changed or asleep:
                        ranks.enter("sync")
                        stages.note(publisher.publish(learner.policy.gpt, version))
                found = crew.conduct("evaluate", version, stages.evaluate, version, step)
                ranks.enter("checkpoint")
                checkpoints.poll()
                exports.poll()
                stages.note(meter.end(turn.batch, changed))
                stages.finish_step(step, time.perf_counter() - started)
                state = stages.state(step, version)
                if checkpoints.due(step, found.best) or found.enough:
                    stages.note(checkpoints.save(state))
                if exports.due(step):
                    stages.note(exports.begin(learner.policy.gpt, step))
        if turn.stop:
            checkpoints.save(state)
            checkpoints.finish()
            exports.finish()
            stages.say_how_to_resume(state.step)
            return
        stages.say_why_it_ends(state.step)
        checkpoints.finish()
        ranks.enter("export")
        exports.begin(learner.policy.gpt)
        exports.finish()
        stages.summarize(state.step)


def collect(config: TrainConfig, stages: "Stages", step: int, version: int, sampled: TrainBatch | None = None) -> TrainBatch:
    """What rank 0 does of an iteration: questions in, the batch of the optimizer step out; `sampled`: it had been done already."""
    if sampled:
        return sampled
    started = time.perf_counter()
    asked = ceil(config.data.questions_per_step * config.rollout.oversample)
    prompts = stages.source.draw(asked - len(stages.unfinished))
    sampling = stages.rollout.generate(prompts, version, unfinished=stages.unfinished)  # yields trajectories as they finish
    enough = Enough(config.data.questions_per_step, asked, config.rollout, sampling.stop_early)
    groups = stages.verifier.verify(sampling, config.rollout.samples, enough.note, sampling.cut)  # while others are being sampled
    if config.record:
        write_step(Path(config.run_dir) / FOLDER, step, groups)
    batch = stages.selector.select(groups)
    seconds = time.perf_counter() - started
    stages.note(
        rollout_metrics(groups, batch.counts),
        stages.leave(sampling),
        stages.verifier.tally.metrics(),
        {"time/rollout": seconds, "perf/rollout_tokens_per_second": sampled_tokens(groups) / seconds},
    )
    return batch


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    work = {"train": run, "rollout_only": rollout_only, "train_only": train_only, "replay": train_only}
    return run_command(
        "megatron_oreal.train", lambda overrides: load(TrainConfig, "train", overrides), lambda config: work[config.mode](config), arguments
    )


if __name__ == "__main__":
    sys.exit(main())
