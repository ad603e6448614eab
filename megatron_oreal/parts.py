"""The parts of a run, opened in their order and closed together; which of them there are is config.mode's to say (see debug.py)."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.coordinator.conductor import Conductor
from megatron_oreal.coordinator.coordinator import Coordinator, Source
from megatron_oreal.coordinator.inputs import Inputs, read_inputs
from megatron_oreal.coordinator.sampler import Sampler
from megatron_oreal.coordinator.selector import Selector
from megatron_oreal.coordinator.supervised import SupervisedCoordinator, SupervisedInputs, read_supervised
from megatron_oreal.coordinator.workers import Workers
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.debug import RecordedSteps, check_recorded
from megatron_oreal.engines import demand
from megatron_oreal.engines.engines import Engines, external_engines, supervised_here
from megatron_oreal.evaluation.config import VALIDATION
from megatron_oreal.evaluation.evaluator import Evaluator
from megatron_oreal.evaluation.history import EvaluationHistory
from megatron_oreal.evaluation.validation import digest
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.learn.supervised import SupervisedLearner
from megatron_oreal.model.shape import read_shape
from megatron_oreal.monitor.profiler import Profiler
from megatron_oreal.monitor.reporter import Reporter
from megatron_oreal.monitor.run_lock import NAME, alone
from megatron_oreal.plan.host.need import Place
from megatron_oreal.plan.start import rollout_with_cache
from megatron_oreal.progress import Progress
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.stop import StopSignal
from megatron_oreal.sync.deliver import check_way
from megatron_oreal.sync.publisher import Publisher
from megatron_oreal.verify import Verifier
from megatron_oreal.verify.audit import FILE as DISAGREEMENTS

Learns = Learner | SupervisedLearner


@dataclass(frozen=True)
class Parts:
    """What the loop works with, on every rank."""

    workers: Workers
    learner: Learns | None  # None: nothing is trained
    publisher: Publisher | None  # None: nothing is published
    progress: Progress


@dataclass(frozen=True)
class _Run:
    """What one run has and another has not."""

    config: TrainConfig | SftConfig
    inputs: Inputs | SupervisedInputs
    asked: int | None  # answers that an engine is asked for at one time; None: there are no engines
    learner: type[Learns] | None  # None: nothing is trained
    coordinator: Callable[["_Run", Ranks, Rollout | None, ExitStack], Conductor]
    saves: bool  # it can go on where it was stopped

    @property
    def publishes(self) -> bool:
        return self.saves and self.asked is not None


def open_parts(config: TrainConfig) -> AbstractContextManager[Parts]:
    """Of an OREAL run: everything is there, the run stands where it stood, and the engines answer.

    Raises:
        ValueError: something is wrong with the input, found before any GPU is taken; or with the layout.
    """
    inputs = read_inputs(config)
    if config.recorded:
        check_recorded(config)
    asked = demand.of_training(config) if config.has_engines else None
    learner = None if config.mode == "rollout_only" else Learner
    return _opened(_Run(config, inputs, asked, learner, _open_coordinator, saves=config.mode == "train"))


def open_supervised(config: SftConfig) -> AbstractContextManager[Parts]:
    """Of a supervised start; there are engines where it is evaluated. Raises ValueError as open_parts."""
    inputs = read_supervised(config)
    asked = demand.of_supervised(config) if config.has_engines else None
    return _opened(_Run(config, inputs, asked, SupervisedLearner, _open_supervised, saves=True))


@contextmanager
def _opened(run: _Run) -> Iterator[Parts]:
    config, stop = run.config, StopSignal(listens=run.saves)
    with ExitStack() as stack:
        ranks = stack.enter_context(Ranks(config.parallel, config.seed, Path(config.run_dir) / "stacks"))
        if ranks.conducts:
            stack.enter_context(alone(f"run_dir={config.run_dir}", Path(config.run_dir) / NAME))
        ranks.barrier()  # no engine of ours begins where another run's are at work
        engines = _open_engines(config, ranks, stack, run.asked) if run.asked is not None else None
        rollout = Rollout(config.rollout, engines, run.inputs.tokenizer, config.seed) if engines else None
        coordinator = run.coordinator(run, ranks, rollout, stack) if ranks.conducts else None
        ranks.enter("load")
        shared = run.asked is not None and run.learner and config.rollout.releases_memory(ranks.platform.is_cpu)
        if shared:
            _make_room(engines, ranks)
        learner = run.learner(config, ranks) if run.learner else None
        profiler = stack.enter_context(Profiler(config.profile, config.run_dir, ranks))
        progress = Progress(config, ranks, coordinator, learner, profiler, run.saves)
        if learner:
            learner.rest_between_turns()  # before engines on the same GPUs take all of their memory
        if engines and not engines.serving:
            engines.wait_ready()  # they have been loading meanwhile
        progress.begin()
        ranks.barrier()
        publisher = None
        if run.publishes:
            publisher = stack.enter_context(Publisher(config, learner.models, ranks, engines, bool(shared), sampling=coordinator))
        workers = Workers(ranks, coordinator, _into_service(publisher, learner, rollout), stop)
        stack.enter_context(workers.saved_if_it_fails(progress.save))
        yield Parts(workers, learner, publisher, progress)


def _open_engines(config: TrainConfig | SftConfig, ranks: Ranks, stack: ExitStack, asked: int) -> Engines | None:
    """The engines that this host's first rank keeps begin to load; returns rank 0's view of all of them.

    Raises:
        ValueError: engines on several hosts would listen where nobody finds them, or cannot be shared out among the hosts, or
            rollout.sync does not lead to them.
    """
    rollout, run_dir = config.rollout, Path(config.run_dir)
    if rollout.placement == "colocated":
        hosts, host = ranks.hosts()
        check_way(rollout, hosts, ranks.platform.is_cpu)
        numbers = rollout.engines_of(host, hosts) if ranks.placement.local_rank == 0 else range(0)
        here = rollout if ranks.platform.is_cpu else _with_cache(config, ranks, hosts)
        stack.enter_context(supervised_here(here, config.model.path, config.model.dtype, run_dir, numbers, asked))
    if not ranks.conducts:
        return None
    engines = Engines(rollout, run_dir, external_engines(rollout))
    stack.callback(engines.close)
    return engines


def _with_cache(config: TrainConfig | SftConfig, ranks: Ranks, hosts: int) -> RolloutConfig:
    """Of engines that share the ranks' GPUs."""
    world = ranks.placement.world_size
    return rollout_with_cache(config, read_shape(config.model.path), Place(world, world // hosts))


def _open_coordinator(run: _Run, ranks: Ranks, rollout: Rollout | None, stack: ExitStack) -> Coordinator:
    """`rollout`: None where the trajectories were recorded."""
    config, inputs, evaluator = run.config, run.inputs, None
    reporter = Reporter("OREAL", config.steps, config.monitor, Path(config.run_dir), asdict(config))
    source: Source = RecordedSteps(Path(config.recorded or ""))
    if rollout:
        verifier = _open_verifier(config, reporter, ranks, stack)
        source = Sampler(config, PromptSource(inputs.prompts, config.seed, weights=config.data.weights), rollout, verifier)
        stack.callback(source.close)
        evaluator = _evaluator(run, rollout, verifier) if config.mode == "train" else None
    stack.enter_context(reporter)
    for line in inputs.notes if rollout else ():
        reporter.say(line)
    selector, record_to = Selector(config.objective, config.seed), Path(config.run_dir) if config.record else None
    return Coordinator(source, selector, _history(run, config.policy.freeze_steps), reporter, evaluator, inputs.tokenizer, record_to)


def _open_supervised(run: _Run, ranks: Ranks, rollout: Rollout | None, stack: ExitStack) -> SupervisedCoordinator:
    """`rollout`: None where nothing is evaluated."""
    config, evaluator = run.config, None
    reporter = Reporter("supervised start", config.steps, config.monitor, Path(config.run_dir), asdict(config), config.log_interval)
    if rollout:
        evaluator = _evaluator(run, rollout, _open_verifier(config, reporter, ranks, stack))
    stack.enter_context(reporter)
    for line in run.inputs.notes:
        reporter.say(line)
    return SupervisedCoordinator(run.inputs.samples, config, _history(run), reporter, evaluator)


def _open_verifier(config: TrainConfig | SftConfig, reporter: Reporter, ranks: Ranks, stack: ExitStack) -> Verifier:
    verifier = stack.enter_context(Verifier(config.verify, Path(config.run_dir) / DISAGREEMENTS))
    verifier.watch = lambda expected: reporter.console.sampling(ranks.ranges.stage, expected)
    return verifier


def _history(run: _Run, frozen_steps: int = 0) -> EvaluationHistory:
    validation_set = next((digest(one) for one in run.inputs.sets if one.name == VALIDATION), "")
    return EvaluationHistory(run.config.eval, validation_set, run.config.steps, frozen_steps)


def _evaluator(run: _Run, rollout: Rollout, verifier: Verifier) -> Evaluator | None:
    return Evaluator(run.inputs.sets, run.inputs.asked, rollout, verifier) if run.inputs.sets else None


def _make_room(engines: Engines | None, ranks: Ranks) -> None:
    """Engines on the ranks' own GPUs load first, and give up the memory before the models take it; else both load at once."""
    if engines:
        engines.wait_ready()
        engines.sleep()
    ranks.barrier()


def _into_service(publisher: Publisher | None, learner: Learns | None, rollout: Rollout | None) -> Callable[[int], object]:
    """What all ranks do when the last engine was lost."""
    if publisher:
        return lambda version: publisher.bring_back(learner.policy.gpt, version)
    return lambda version: rollout.take_those_that_are_back() if rollout else None
