"""The bookkeeping of a run, on every rank: where it stands, the metrics of the step in progress, checkpoints, exports, how it ends."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.coordinator.conductor import Conductor
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.export import HFExports
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner, StepResult
from megatron_oreal.learn.supervised import SupervisedLearner
from megatron_oreal.model.hf_files import fingerprint
from megatron_oreal.monitor.meter import Meter
from megatron_oreal.monitor.profiler import Profiler
from megatron_oreal.run_state import RunState, settings_of
from megatron_oreal.trajectory import Directive, TrainBatch


class Progress:
    """Steps, from where the run stood to where it ends. Its methods are collective over all ranks."""

    def __init__(
        self,
        config: TrainConfig | SftConfig,
        ranks: Ranks,
        coordinator: Conductor | None,
        learner: Learner | SupervisedLearner | None,
        profiler: Profiler,
        saves: bool = True,
    ):
        """`coordinator`: rank 0's; `learner`: None where nothing is trained; `saves`: whether the run can go on later (see debug.py).

        Raises:
            ValueError: the checkpoint to go on from cannot be loaded.
        """
        run_dir = Path(config.run_dir)
        self._config, self._ranks, self._coordinator, self._learner = config, ranks, coordinator, learner
        self._profiler = profiler
        self._saves = saves
        self._start = {"settings": settings_of(config), "model": fingerprint(config.model.path)} if coordinator else {}
        self._meter = Meter(ranks, learner.cost, config.model.dtype) if learner else None
        self._state = RunState()
        if learner:
            self._checkpoints = Checkpoints(run_dir, config.checkpoint, learner, ranks, RunState)
            found = self._checkpoints.restore(config.resume)
            self._state = found if self._saves else RunState(found.step, found.version, selector=found.selector)
        if self._saves:
            self._exports = HFExports(run_dir, config.checkpoint, learner.models, ranks)
        self._noted: dict[str, float] = {}  # metrics of the step in progress
        self._born = self._begun = time.perf_counter()
        self._stopped = self._ends = False

    @property
    def version(self) -> int:
        """Of the policy."""
        return self._state.version

    @property
    def step(self) -> int:
        """The last one that was trained."""
        return self._state.step

    @property
    def pending(self) -> TrainBatch | None:
        """What had been sampled for the next step when the run was stopped."""
        return self._state.pending

    def begin(self) -> None:
        """The run begins, or goes on; the engines answer by now."""
        self._born = time.perf_counter() - self._state.seconds
        self._noted = {} if self._state.unwritten else dict(self._state.noted)
        if self._coordinator:
            self._coordinator.take_up(self._state)

    def evaluated(self, found: Directive) -> None:
        """What an evaluation before the first step found."""
        self._ends = found.end
        if found.metrics and self._coordinator:
            self._coordinator.report_evaluation(self.step, found.metrics)
        if found.best and self.step:  # its evaluation was cut when the run was asked to stop
            self._state = self._stand(self.step, self.version, self.pending)
            self._noted |= self._checkpoints.save(self._state)

    def steps(self) -> Iterator[int]:
        """The steps that are left, each begun when it is asked for; no more of them once the run is to end."""
        for step in range(self.step + 1, self._config.last_step + 1):
            if self._ends:
                return
            if self._meter:
                self._meter.begin()
            self._profiler.begin(step)
            self._begun = time.perf_counter()
            yield step

    def stopped(self, collected: Directive) -> bool:
        """Whether the run was asked to stop; what was sampled for this step by then is saved with it. If not, the models may change now."""
        self._stopped = collected.stop
        self._noted |= collected.metrics
        if collected.stop and collected.batch:
            self._state = self._stand(self.step, self.version, collected.batch)
        elif self._saves:
            self._noted |= self._checkpoints.release()
        return collected.stop

    def trained(self, step: int, collected: Directive, update: StepResult) -> None:
        """The step is trained: should the run fail before it is over, it is saved with this step."""
        self._noted |= update.metrics
        self._state = self._stand(step, self.version + update.policy_changed, unwritten=True)
        if self._coordinator:
            self._coordinator.record(step, collected.batch, update.token_weights)

    def end_step(self, step: int, collected: Directive, update: StepResult, published: Mapping[str, float], evaluated: Directive) -> None:
        """The step is over: its metrics are written, the run is saved and exported where that is due."""
        self._ranks.enter("checkpoint")
        self._poll()
        costs = self._meter.end(collected.batch, update.policy_changed) if self._meter else {}
        self._noted |= published | evaluated.metrics | costs
        self._noted["time/step"] = time.perf_counter() - self._begun
        if self._coordinator:
            self._coordinator.reporter.step(step, self._noted, "" if collected.batch.samples else "  skipped: no question had both")
        self._noted = {}
        self._state, self._ends = self._stand(step, self.version), evaluated.end
        if self._saves and (self._checkpoints.due(step, evaluated.best) or evaluated.end):
            self._noted |= self._checkpoints.save(self._state)
        if self._saves and self._exports.due(step):
            self._noted |= self._exports.begin(self._learner.policy.gpt, step)

    def _poll(self) -> None:
        if self._saves:
            self._checkpoints.poll()
            self._exports.poll()

    def _stand(self, step: int, version: int, pending: TrainBatch | None = None, unwritten: bool = False) -> RunState:
        seconds = time.perf_counter() - self._born
        state = RunState(step, version, seconds=seconds, pending=pending, noted=self._noted, unwritten=unwritten, **self._start)
        return self._coordinator.fill(state) if self._coordinator else state

    def save(self) -> None:
        """Save the run where it stands, and wait for it."""
        if self._saves:
            self._checkpoints.save(self._state)
            self._checkpoints.finish()

    def finish(self) -> None:
        """After the last step: what is still being written is waited for; a whole run leaves hf/ and summary.json, or how to resume it."""
        if self._saves and self._stopped:
            self._stop()
        elif self._saves:
            self._end()

    def _stop(self) -> None:
        self.save()
        self._exports.finish()
        if self._coordinator:
            self._coordinator.reporter.stopped(self.step)

    def _end(self) -> None:
        if self._coordinator:
            self._coordinator.report_end(self.step, self._config.steps)
        self._checkpoints.finish()
        self._ranks.enter("export")
        self._exports.begin(self._learner.policy.gpt)
        self._exports.finish()
        if self._coordinator:
            self._coordinator.summarize(self.step, time.perf_counter() - self._born)
