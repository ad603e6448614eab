"""What rank 0 conducts with, opened and closed together; on the other ranks the same object with nothing inside."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from math import log
from pathlib import Path
from statistics import fmean

from megatron_oreal.config import TrainConfig
from megatron_oreal.data.prompts import PromptSource, Template, balance, fitting, load_tokenizer, read_questions, stop_token
from megatron_oreal.engines.engines import Engines, external_engines, kept_here
from megatron_oreal.evaluation.config import VALIDATION
from megatron_oreal.evaluation.evaluator import Evaluator, askings
from megatron_oreal.evaluation.figures import Evaluation
from megatron_oreal.evaluation.sets import ProblemSet, read_sets
from megatron_oreal.evaluation.validation import HeldOut, Standing, digest, hold_out, overlaps, standing, validation_set
from megatron_oreal.learn.checkpoint import RunState, find_checkpoint
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model.blueprint import open_model
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.config import MonitorConfig
from megatron_oreal.monitor.console import Console, step_line
from megatron_oreal.monitor.recorded import FOLDER, write_weights
from megatron_oreal.monitor.trackers import Trackers, check_trackers, open_trackers
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.dispatch import Mishaps
from megatron_oreal.rollout.generate import InFlight, Rollout
from megatron_oreal.selection import Selector
from megatron_oreal.trajectory import Prompt, TrainBatch, Turn, Unfinished
from megatron_oreal.verify import Verifier
from megatron_oreal.verify.audit import FILE as DISAGREEMENTS
from megatron_oreal.verify.judge.hosts import read_key

STOPPED = "stopped"
"""File of a run that was asked to stop and is to go on: with it alone can its status 0 be told from that of a finished run."""


@dataclass(frozen=True)
class Inputs:
    """Everything read from outside, checked."""

    tokenizer: object
    prompts: list[Prompt]  # balanced; those too long to be answered left out
    sets: list[ProblemSet]  # to be evaluated: test sets, and the questions held out of training as validation set
    notes: list[str]  # what is computed with; how many questions became how many prompts


def read_inputs(config: TrainConfig) -> Inputs:
    """Model folder, tokenizer, stop word and data files. Raises ValueError, one line, for the first thing wrong."""
    compute = Compute.find(config.compute, config.model.dtype, Platform.detect())
    check_trackers(config.monitor)
    find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume)
    open_model(config.model.path, "policy", config.parallel)
    read_key(config.verify.judge)
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template = Template(tokenizer, config.data.system_prompt)
    questions = read_questions(config.data.train)
    held_out = hold_out(questions, config.eval.validation, config.seed)
    balanced = balance(held_out.train, config.data.balance)
    prompts = [template.prompt(q) for q in balanced]
    fit = fitting(prompts, config.rollout.max_total_tokens)
    PromptSource(fit, config.seed)  # raises where nothing is left
    kept, asked = len({q.id for q in balanced}), len({p.id for p in fit})
    notes = [
        compute.line(),
        f"data: {len(questions)} questions, {_held_out_line(held_out)}{len(held_out.train) - kept} dropped by difficulty, "
        f"{kept - asked} too long; {len(fit)} prompts an epoch with repeats",
    ]
    sets = read_sets(config.eval.resolved())
    for name, number in overlaps(questions, sets).items():
        notes.append(f"eval: {number} questions of {name} are training questions as well: it says nothing of what the policy never saw")
    if held_out.validation:
        sets.append(validation_set(held_out.validation, config.eval))
    elif sets and config.checkpoint.keep_best:
        notes.append(f"checkpoint.keep_best={config.checkpoint.keep_best} keeps none: test sets pick no checkpoint; see eval.validation")
    return Inputs(tokenizer, fit, sets, notes)


def _held_out_line(held_out: HeldOut) -> str:
    if not held_out.validation:
        return ""
    more = f" with {held_out.duplicates} duplicates" if held_out.duplicates else ""
    return f"{len(held_out.validation)} held out for validation{more}, "


@dataclass
class Stages:
    """The stages that only rank 0 has (None elsewhere), and what it reports."""

    engines: Engines | None = None
    tokenizer: object | None = None
    source: PromptSource | None = None
    rollout: Rollout | None = None
    verifier: Verifier | None = None
    selector: Selector | None = None
    evaluator: Evaluator | None = None
    console: Console | None = None
    monitor: MonitorConfig | None = None
    settings: dict = field(default_factory=dict)  # the run's configuration, for the trackers
    log: Trackers | None = None
    run_dir: Path | None = None
    started: float = field(default_factory=time.perf_counter)
    evaluations: dict[int, dict[str, Evaluation]] = field(default_factory=dict)  # step -> set -> figures
    validation: dict[int, list[float]] = field(default_factory=dict)  # step -> score of each validation question
    validation_set: str = ""  # which questions those are; empty: there are none
    eval_interval: int = 1
    patience: int | None = None
    frozen_steps: int = 0  # at the beginning, in which the policy is not trained
    begun_after: int = 0  # the step at which this process took up the run
    unfinished: list[Unfinished] = field(default_factory=list)  # questions that the last rollout cut
    memory_is_shared: bool = False  # on every rank: the engines give up the GPUs' memory while the models train
    _metrics: dict[str, float] = field(default_factory=dict)
    _engine_counts: tuple[int, int, int] = (0, 0, 0)  # lost, rejoined, restarts of the run so far

    def wait_ready(self) -> None:
        """Return when all engines answer; they have been loading since open_stages."""
        if self.engines and not self.engines.serving:
            self.engines.wait_ready()

    def make_room(self, ranks: Ranks) -> None:
        """Engines on the ranks' own GPUs load first, and give up the memory before the models take it; else both load at once."""
        if self.memory_is_shared:
            self.wait_ready()
            self.engines_sleep()
            ranks.barrier()

    def engines_sleep(self) -> bool:
        """Whether the engines have given up the GPUs' memory, and with it their weights, until the next publication."""
        if self.engines and self.memory_is_shared:
            self.engines.sleep()
        return self.memory_is_shared

    def leave(self, sampling: InFlight) -> dict[str, float]:
        """Keep what the rollout cut, where it is to go on; what became of it and of the engines, as metrics of the step."""
        resumes = self.rollout.config.tail > 0
        self.unfinished = sampling.unfinished if resumes else []
        mishaps, self.rollout.mishaps = self.rollout.mishaps, Mishaps()
        before, self._engine_counts = self._engine_counts, (self.engines.lost, self.engines.rejoined, self.engines.restarts)
        lost, rejoined, restarts = (now - then for now, then in zip(self._engine_counts, before, strict=True))
        return {
            "rollout/retries": mishaps.retries,
            "rollout/moved": mishaps.moved,
            "rollout/engines_lost": lost,  # these three since the last rollout, in training and sync as well
            "rollout/engines_rejoined": rejoined,
            "rollout/engine_restarts": restarts,
            "rollout/engines": len(self.engines.serving),
            "rollout/unfinished": len(self.unfinished),
            "logprob/top_p_bias_bound": -log(self.rollout.config.top_p),  # see oreal.mismatch
            "rollout/abandoned": 0 if resumes else len(sampling.unfinished),
        }

    def note(self, *metrics: dict[str, float]) -> None:
        """Remember metrics of the step in progress."""
        for some in metrics:
            self._metrics |= some

    def record(self, step: int, batch: TrainBatch, token_weights: list[list[float]] | None) -> None:
        """Keep what the token RM said of the trained trajectories, where trajectories are recorded."""
        if self.run_dir and token_weights:
            write_weights(self.run_dir / FOLDER, step, batch.samples, token_weights, self.tokenizer)

    def go_on_from(self, state: RunState) -> None:
        """Take up a run where it stood; a fresh state begins one."""
        if self.run_dir is None:
            return
        (self.run_dir / STOPPED).unlink(missing_ok=True)
        self.begun_after, self.source.drawn = state.step, state.drawn
        if state.selector:
            self.selector.state = state.selector
        self.started, self.evaluations = time.perf_counter() - state.seconds, dict(state.evaluations)
        self.validation = dict(state.validation) if state.validation_set == self.validation_set else {}
        if len(self.validation) < len(state.validation):
            self.console.say("eval.validation: other questions than before; what the earlier ones said is forgotten")
        self.unfinished = list(state.unfinished)
        after = state.step if state.seconds else None
        self.log = open_trackers(self.monitor, self.run_dir, self.settings, self.console.say, after, state.seconds)
        if state.unwritten:  # its engines went away after the step was trained, before it was over
            self.log.write(state.step, state.noted)
        else:
            self._metrics = dict(state.noted)
        if state.seconds:
            sampled = f"; step {state.step + 1} is sampled already" if state.pending else ""
            self.console.resume(state.step, f"resumed after step {state.step}, policy version {state.version}{sampled}")

    def state(self, step: int, version: int, pending: TrainBatch | None = None, unwritten: bool = False) -> RunState:
        """Where the run stands after `step`; `unwritten`: trained, but not finished. Only rank 0's counts."""
        if self.source is None:
            return RunState(step, version)
        return RunState(
            step=step,
            version=version,
            drawn=self.source.drawn,
            selector=self.selector.state,
            seconds=time.perf_counter() - self.started,
            evaluations=self.evaluations,
            validation=self.validation,
            validation_set=self.validation_set,
            pending=pending,
            unfinished=self.unfinished,
            noted=self._metrics,
            unwritten=unwritten,
        )

    def evaluate(self, version: int, step: int) -> Turn:
        """Figures of the weights that the engines hold, where they are due after this step (0: before training) and unknown.

        Returns whether the step is the best so far on the validation set, and whether that has not improved for long enough to end.
        """
        due = step % self.eval_interval == 0 or step == self.console.steps
        fresh = self.evaluator is not None and due and step not in self.evaluations
        if fresh:
            self._evaluate(version, step)
        now = self.standing
        return Turn(best=fresh and now.best == step, enough=now.enough(self.patience))

    def _evaluate(self, version: int, step: int) -> None:
        found = self.evaluator.evaluate(version)
        if found.validation:
            self.validation[step] = found.validation
        self.evaluations[step] = found.sets
        if step > self.begun_after:
            self.note(found.metrics())
            return
        for name, figures in found.sets.items():
            self.console.say(f"{name}: pass@1 at step {step}: {figures.pass_at_1:.1%} of {figures.problems}")
        self.log.write(step, found.metrics())  # no step is in progress

    @property
    def standing(self) -> Standing:
        """What the validation set says of the run so far."""
        return standing(self.validation, self.frozen_steps)

    def finish_step(self, step: int, seconds: float) -> None:
        """Write the step's metrics and its line; says so where every question was all right or all wrong."""
        if self.log is None:
            return
        self.note({"time/step": seconds})
        skipped = "" if "loss/token_rm" in self._metrics or "loss/total" in self._metrics else "  skipped: no question had both"
        self.console.step(step, step_line(self._metrics) + skipped)
        self.log.write(step, self._metrics)
        self._metrics = {}

    def close_log(self, kind: type[BaseException] | None, *_) -> None:
        """The run ends, with an error where there is a `kind`; as ExitStack calls it."""
        if self.log:
            self.log.close(failed=kind is not None)

    def say_how_to_resume(self, step: int) -> None:
        """The last line of a run that was asked to stop, and the file that says so to whoever started it (launch/slurm/job.sh)."""
        if self.console:
            (self.run_dir / STOPPED).write_text(f"after step {step}\n")
            self.console.say(f"stopped after step {step} as asked and saved; the same command with resume=auto goes on from there")

    def say_why_it_ends(self, step: int) -> None:
        """Of a run that ends early because it no longer improves."""
        if self.console and step < self.console.steps:
            now = self.standing
            self.console.say(f"stopped early after step {step}: {now.without} evaluations without improvement since step {now.improved}")

    def summarize(self, step: int) -> None:
        """Write summary.json and show it. The run ended after `step`."""
        if self.log is None:
            return
        summary = {"steps": step, "seconds": round(time.perf_counter() - self.started, 1)}
        if self.evaluations:
            (name, last), first = next(iter(self.evaluations[max(self.evaluations)].items())), self.evaluations[min(self.evaluations)]
            summary |= {"pass_at_1_start": first[name].pass_at_1} if name in first else {}
            summary |= {"pass_at_1_end": last.pass_at_1, "problems_evaluated": last.problems, "evaluated": name}
        if self.validation:
            now = self.standing
            summary |= {"best_step": now.best, "validation_best": fmean(self.validation[now.best])}
            summary |= {"stopped_early": step < self.console.steps}
        (self.run_dir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        percent = ("pass_at", "validation")
        self.console.table("OREAL", [(k, f"{v:.1%}" if k.startswith(percent) else str(v)) for k, v in summary.items()])


@contextmanager
def open_stages(config: TrainConfig, inputs: Inputs, ranks: Ranks) -> Iterator[Stages]:
    """Start the engines (they load while the models are built), the verifier and the rest; stop them on the way out.

    Raises:
        ValueError: engines on several hosts would listen where nobody finds them, or cannot be shared out among the hosts, or
            rollout.sync does not lead to them.
    """
    rollout, run_dir, shared = config.rollout, Path(config.run_dir), config.rollout.releases_memory and not ranks.platform.is_cpu
    with ExitStack() as stack:
        if rollout.placement == "colocated":
            numbers = _engines_here(config, ranks)
            stack.enter_context(kept_here(rollout, config.model.path, config.model.dtype, run_dir, numbers))
        if not ranks.conducts:
            yield Stages(memory_is_shared=shared)
            return
        engines = Engines(rollout, run_dir, external_engines(rollout))
        stack.callback(engines.close)
        verifier = stack.enter_context(Verifier(config.verify, run_dir / DISAGREEMENTS))
        asking = Rollout(rollout, engines, inputs.tokenizer, config.seed)
        longest = rollout.max_total_tokens
        asked = askings(inputs.sets, Template(inputs.tokenizer, config.data.system_prompt), config.eval.max_new_tokens, longest)
        console = stack.enter_context(Console("OREAL", config.steps))
        verifier.watch = lambda expected: console.sampling(ranks.ranges.stage, expected)
        for line in inputs.notes:
            console.say(line)
        stages = Stages(
            engines=engines,
            tokenizer=inputs.tokenizer,
            source=PromptSource(inputs.prompts, config.seed),
            rollout=asking,
            verifier=verifier,
            selector=Selector(config.objective, config.seed),
            validation_set=next((digest(one) for one in inputs.sets if one.name == VALIDATION), ""),
            evaluator=Evaluator(inputs.sets, asked, asking, verifier) if inputs.sets else None,
            console=console,
            run_dir=run_dir,
            monitor=config.monitor,
            settings=asdict(config),
            eval_interval=config.eval.interval,
            patience=config.eval.patience,
            frozen_steps=config.policy.freeze_steps,
            memory_is_shared=shared,
        )
        stack.push(stages.close_log)
        yield stages


def _engines_here(config: TrainConfig, ranks: Ranks) -> range:
    """The numbers of the engines that this rank keeps: its host's share in the host's first rank, none in the others."""
    hosts, host = ranks.hosts()
    check_placement(config.rollout, hosts, ranks.platform.is_cpu)
    return config.rollout.engines_of(host, hosts) if ranks.placement.local_rank == 0 else range(0)


def check_placement(rollout: RolloutConfig, hosts: int, on_cpu: bool) -> None:
    """Raises ValueError where colocated engines cannot work, or cannot be shared out, among so many hosts of ranks."""
    if rollout.sync == "distributed" and not on_cpu:
        raise ValueError(
            "rollout.sync=distributed: NCCL joins no two processes on one GPU, as ranks and rollout.placement=colocated engines are; "
            "set rollout.sync=tensor on one host, disk on several"
        )
    if rollout.sync == "tensor" and hosts > 1:
        raise ValueError(f"rollout.sync=tensor hands weights over within a host, the engines are on {hosts}; set rollout.sync=disk")
    rollout.engines_of(0, hosts)
