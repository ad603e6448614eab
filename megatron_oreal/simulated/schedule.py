"""A run's steps against simulated engines: the real conductor samples, verifies and selects; training and publication are waits."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from megatron_oreal.coordinator.coordinator import Coordinator
from megatron_oreal.coordinator.sampler import Sampler
from megatron_oreal.coordinator.selector import Selector
from megatron_oreal.data.prompts import PromptSource
from megatron_oreal.engines.calls import post_all
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.engines.registry import RegistryEntry, register, registry_folder
from megatron_oreal.errors import ServerError
from megatron_oreal.evaluation.evaluator import Asking, Evaluator
from megatron_oreal.plan.config import Planned
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.simulated.answers import gold_of, name_of
from megatron_oreal.trajectory import Directive, Group, Prompt, finish
from megatron_oreal.verify import Verifier

QUESTIONS = 2048
CALL_S = 60.0


@dataclass(frozen=True)
class Counted:
    """Of all engines since they were started; virtual seconds."""

    tokens: float
    decoding_s: float
    prefilling_s: float
    sequence_s: float
    now: float  # a moment

    @classmethod
    def of(cls, engines: Sequence[Endpoint], at: float = 0.0) -> "Counted":
        """Ask them; not before a moment."""
        told = [engine.get(f"/figures?at={at}", CALL_S) for engine in engines]
        names = ("tokens", "decoding_s", "prefilling_s", "sequence_s")
        return cls(*(sum(one[name] for one in told) for name in names), told[-1]["now"])


@dataclass(frozen=True)
class StepFigures:
    """Of a step; seconds are virtual but for the conductor's."""

    seconds: float
    sampling_s: float  # until the step's batch was there
    tokens: float  # sampled meanwhile
    running: float  # sequences of an engine, on average over the step
    prefilling: float  # share of the step
    ages: list[int]  # versions between the first token of a trained trajectory and its training
    lengths: list[int]  # of the answers to the step's questions
    questions: int  # of the step
    kept: int  # of them trained on
    conductor_s: float  # of CPU


class Schedule:
    """A run without its models."""

    def __init__(
        self, config: Planned, engines: Engines, verifier: Verifier, tokenizer, training_s: float, sync_s: float, evaluated: int = 0
    ):
        """`training_s`, `sync_s`: a step's, as planned. `evaluated`: questions of an evaluation; 0: there is none."""
        prompts, rollout = questions(config, tokenizer), Rollout(config.rollout, engines, tokenizer, config.seed)
        self._sampler = Sampler(config, PromptSource(prompts[evaluated:], config.seed), rollout, verifier)
        held_out = {prompt.id: prompt for prompt in prompts[:evaluated]}
        greedy = Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=config.eval.max_new_tokens)
        self._evaluator = Evaluator([], [Asking("held out", "greedy", greedy, held_out)], rollout, verifier) if evaluated else None
        self._coordinator = Coordinator(self._sampler, Selector(config.objective, config.seed), None, None, None, tokenizer, None)
        self._config, self._engines = config, engines
        self._training_s, self._sync_s = training_s, sync_s
        self._version = 0

    def step(self, number: int) -> StepFigures:
        """Sample, train, publish, evaluate."""
        cpu, before = time.process_time(), self._count()
        groups, directive = self._collect(number)
        collected = self._count()
        ages = list(self._ages(groups, directive))
        self._train_and_publish(collected.now)
        if self._evaluator and number % self._config.eval.interval == 0:
            finish(self._evaluator.evaluate(self._version), _no_engine_is_lost)
        after = self._count()
        seconds, engines = after.now - before.now, len(self._engines.serving)
        return StepFigures(
            seconds=seconds,
            sampling_s=collected.now - before.now,
            tokens=after.tokens - before.tokens,
            running=(after.sequence_s - before.sequence_s) / seconds / engines,
            prefilling=(after.prefilling_s - before.prefilling_s) / seconds / engines,
            ages=ages,
            lengths=[len(t.token_ids) for group in groups for t in group.trajectories],
            questions=directive.batch.counts.questions,
            kept=directive.batch.counts.kept,
            conductor_s=time.process_time() - cpu,
        )

    def _count(self, at: float = 0.0) -> Counted:
        return Counted.of(self._engines.serving, at)

    def _collect(self, step: int) -> tuple[list[Group], Directive]:
        """As train.collect."""
        prompts = self._coordinator.draw(step)
        groups = finish(self._coordinator.verify(self._coordinator.rollout(prompts, self._version)), _no_engine_is_lost)
        return groups, self._coordinator.select(step, groups)

    def _ages(self, groups: Sequence[Group], directive: Directive) -> Iterator[int]:
        by_name = {(group.prompt.id, t.index): t for group in groups for t in group.trajectories}
        for sample in directive.batch.samples:
            trajectory = by_name[sample.prompt_id, sample.index]
            yield self._version - min([trajectory.version, *(span.version for span in trajectory.earlier)])

    def _train_and_publish(self, begun: float) -> None:
        """The calls of sync.publisher and sync.carry, in the time that training and publication are planned to take."""
        engines, turns, keeps = self._engines.serving, self._config.rollout.releases_memory(), self._config.rollout.keep_cache
        if turns:
            self._coordinator.quiet()
            self._engines.sleep()
        self._count(at=begun + self._training_s)
        self._coordinator.quiet()
        cut = self._count().now
        if turns:
            self._engines.wake()
        post_all(engines, "/pause_generation", CALL_S, {"mode": "retract"})
        if not keeps:
            post_all(engines, "/flush_cache", CALL_S)
        self._count(at=cut + self._sync_s)
        self._version += 1
        post_all(engines, "/update_weight_version", CALL_S, {"new_version": str(self._version), "abort_all_requests": False})
        post_all(engines, "/continue_generation", CALL_S)
        self._coordinator.go_on(self._version)

    def close(self) -> None:
        """End what goes on."""
        self._sampler.close()


def _no_engine_is_lost() -> None:
    raise ServerError("bench_schedule: the simulated engines are gone")


def questions(config: Planned, tokenizer) -> list[Prompt]:
    """Of random tokens; the gold answer is what simulated engines take for right."""
    dice = random.Random(config.seed)
    words = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    drawn = [dice.choices(words, k=config.plan.lengths.prompt) for _ in range(QUESTIONS)]
    return [Prompt(f"q{n}", "", str(gold_of(name_of(token_ids))), token_ids) for n, token_ids in enumerate(drawn)]


@contextmanager
def registered(config: Planned, urls: Sequence[str], run_dir: Path) -> Iterator[Engines]:
    """Engines as a run finds them that others started; they are in service."""
    engines = Engines(config.rollout, run_dir)
    for number, url in enumerate(urls):
        register(registry_folder(run_dir), RegistryEntry(number, 0, Endpoint(url, number=number), ready=True))
    try:
        engines.wait_ready()
        yield engines
    finally:
        engines.close()


@dataclass(frozen=True)
class Result:
    """Of a schedule after its first steps."""

    seconds: float
    sampling_s: float
    tokens_s: float  # of a step
    running: float
    prefilling: float
    age: float
    oldest: int
    length: float
    longest: float  # share of answers as long as any
    kept: float
    conductor_s: float

    @classmethod
    def of(cls, steps: Sequence[StepFigures]) -> "Result":
        """Means over steps."""
        ages, lengths = [a for s in steps for a in s.ages] or [0], [n for s in steps for n in s.lengths]
        seconds = fmean(s.seconds for s in steps)
        return cls(
            seconds=seconds,
            sampling_s=fmean(s.sampling_s for s in steps),
            tokens_s=fmean(s.tokens for s in steps) / seconds,
            running=fmean(s.running for s in steps),
            prefilling=fmean(s.prefilling for s in steps),
            age=fmean(ages),
            oldest=max(ages),
            length=fmean(lengths),
            longest=lengths.count(max(lengths)) / len(lengths),
            kept=sum(s.kept for s in steps) / sum(s.questions for s in steps),
            conductor_s=fmean(s.conductor_s for s in steps),
        )
