"""Parts of a run by themselves: `mode` rollout_only, train_only and replay (conf/debug/). What they share with a run is its stages.

rollout_only: samples with the weights of model.path, verifies, and writes every step's trajectories; nothing is trained.
train_only: trains on recorded trajectories; no engines, no sync, no evaluation.
replay: trains one recorded step again, from the checkpoint before it: the metrics are those of then.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_oreal.config import TrainConfig
from megatron_oreal.monitor.recorded import FOLDER, read_step, write_step, write_weights
from megatron_oreal.trajectory import Turn

if TYPE_CHECKING:
    from megatron_oreal.stages import Inputs


def rollout_only(config: TrainConfig) -> None:
    """Leaves trajectories/ and metrics.jsonl in config.run_dir."""
    from megatron_oreal.learn.checkpoint import RunState
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.stages import open_stages, read_inputs
    from megatron_oreal.train import collect

    inputs = read_inputs(config)
    with Ranks(config.parallel, config.seed, Path(config.run_dir) / "stacks") as ranks, open_stages(config, inputs, ranks) as stages:
        ranks.enter("rollout")
        stages.wait_ready()
        stages.go_on_from(RunState())
        for step in range(1, config.steps + 1):
            started = time.perf_counter()
            if ranks.conducts:
                collect(config, stages, step, version=0)
                stages.finish_step(step, time.perf_counter() - started)
            ranks.barrier()  # the others' patience is that for one step


def train_only(config: TrainConfig) -> None:
    """Leaves metrics.jsonl in config.run_dir, and trajectories/ with `record`; one step alone where config.mode is replay.

    Raises:
        ValueError: trajectories are missing, or the checkpoint is not the one before the step.
    """
    inputs, first = _check(config)
    own = Path(config.run_dir) / FOLDER

    from megatron_oreal.learn.checkpoint import Checkpoints
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.learn.step import Learner
    from megatron_oreal.monitor.console import Console, step_line
    from megatron_oreal.monitor.meter import Meter
    from megatron_oreal.monitor.metrics import rollout_metrics
    from megatron_oreal.monitor.profiler import Profiler
    from megatron_oreal.monitor.trackers import open_trackers
    from megatron_oreal.selection import Selector

    with Ranks(config.parallel, config.seed, Path(config.run_dir) / "stacks") as ranks:
        learner = Learner(config, ranks)
        state = Checkpoints(Path(config.run_dir), config.checkpoint, learner, ranks).restore(config.resume)
        selector = Selector(config.objective, config.seed)
        if state.selector:
            selector.state = state.selector
        meter = Meter(ranks, learner.cost, config.model.dtype)
        with ExitStack() as stack, Profiler(config.profile, config.run_dir, ranks) as profiler:
            if ranks.conducts:
                console = stack.enter_context(Console("OREAL", config.steps))
                log = stack.enter_context(open_trackers(config.monitor, config.run_dir, asdict(config), console.say))
            for step in [first] if config.mode == "replay" else range(state.step + 1, config.steps + 1):
                meter.begin()
                profiler.begin(step)
                started, noted, batch = time.perf_counter(), {}, None
                if ranks.conducts:
                    groups = read_step(Path(config.recorded), step)
                    batch = selector.select(groups)
                    noted = rollout_metrics(groups, batch.counts)
                    if config.record:
                        write_step(own, step, groups)
                batch = ranks.share(Turn(batch), Turn).batch
                changed = False
                if batch.samples:
                    result = learner.train(batch, step)
                    noted, changed = noted | result.metrics, result.policy_changed
                    if ranks.conducts and result.token_weights:
                        write_weights(own, step, batch.samples, result.token_weights, inputs.tokenizer)
                noted |= meter.end(batch, changed)
                if ranks.conducts:
                    noted["time/step"] = time.perf_counter() - started
                    console.step(step, step_line(noted))
                    log.write(step, noted)


def _check(config: TrainConfig) -> tuple["Inputs", int]:
    """What can be wrong is said before any GPU is taken. Returns what was read, and the first of the recorded steps to train on."""
    from megatron_oreal.learn.checkpoint import find_checkpoint, step_of
    from megatron_oreal.stages import read_inputs

    inputs = read_inputs(config)
    replay, checkpoints = config.mode == "replay", Path(config.run_dir) / "checkpoints"
    if checkpoints.exists():
        raise ValueError(f"run_dir={config.run_dir}: holds a run, whose metrics mode={config.mode} would replace; name another folder")
    first = config.replay_step if replay else 1
    read_step(Path(config.recorded), first)
    saved = step_of(find_checkpoint(checkpoints, config.resume))
    if replay and saved != first - 1:
        raise ValueError(f"resume: to replay step {first} the checkpoint after step {first - 1} is needed, this one is of {saved}")
    return inputs, first
