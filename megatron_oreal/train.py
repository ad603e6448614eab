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

from megatron_oreal.command import run_command
from megatron_oreal.config import TrainConfig, load
from megatron_oreal.monitor.metrics import rollout_metrics
from megatron_oreal.trajectory import TrainBatch


def run(config: TrainConfig) -> None:
    """Train to the last step; leaves metrics.jsonl, summary.json and hf/ in config.run_dir."""
    from megatron_oreal.stages import open_stages, read_inputs

    inputs = read_inputs(config)  # whatever can be wrong with the input is found here, before any GPU is taken

    from megatron_oreal.learn.export import write_hf
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.learn.publish import open_publisher
    from megatron_oreal.learn.step import Learner

    ranks = Ranks(config.parallel, config.seed)
    with open_stages(config, inputs, ranks) as stages:
        learner = Learner(config, ranks)
        stages.wait_ready()
        ranks.barrier()
        with open_publisher(config, learner, stages.endpoint, ranks) as publisher:
            version = 0
            stages.evaluate(version, step=0)
            for step in range(1, config.steps + 1):
                started, batch = time.perf_counter(), None
                if ranks.conducts:
                    prompts = stages.source.draw(config.data.questions_per_step)
                    trajectories = stages.rollout.generate(prompts, version)  # yields them as they finish
                    groups = stages.verifier.verify(trajectories, config.rollout.samples)  # while others are being sampled
                    batch = stages.selector.select(groups)
                    stages.note(rollout_metrics(groups, batch.counts), {"time/rollout": time.perf_counter() - started})
                batch = ranks.share(batch, TrainBatch)
                if batch.samples:
                    result = learner.train(batch, step)
                    stages.note(result.metrics)
                    if result.policy_changed:
                        version += 1
                        stages.note(publisher.publish(learner.policy, version))
                if step % config.eval.interval == 0 or step == config.steps:
                    stages.evaluate(version, step)
                stages.finish_step(step, time.perf_counter() - started)
        write_hf(learner.policy.gpt, learner.models, config.run_dir, ranks)
        stages.summarize()
    ranks.stop()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command("megatron_oreal.train", lambda overrides: load(TrainConfig, "train", overrides), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
