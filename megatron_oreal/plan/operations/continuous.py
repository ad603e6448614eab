"""Steps of a run whose engines do not drain (rollout.in_flight above 1), simulated: questions drawn, decoded, cut for new weights, resumed.

The schedule is the coordinator's (coordinator.sampler), the engines' seconds are those of sampling.py. tools/bench_schedule.py has the real
conductor do the same.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from statistics import fmean

from megatron_oreal.plan.operations.batch import Batch, Decoding
from megatron_oreal.plan.operations.sampling import UNEVEN, Sampler
from megatron_oreal.plan.operations.serving import Served

BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048, 4096)
CONTEXTS = (0, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000)
"""Between these a decode step is interpolated, which has to be asked for tens of thousands of times."""
MEASURED = 5
"""Steps, after as many as a question takes."""


@dataclass(frozen=True)
class Schedule:
    """What the coordinator keeps to."""

    questions: int  # of a step
    in_flight: int  # being sampled
    max_age: int  # versions
    training_s: float
    sync_s: float
    turns: bool  # engines stand still while the models train
    keeps: bool = False  # what they have cached, over a publication


@dataclass(frozen=True)
class Simulated:
    """On average over steps."""

    seconds: float  # of a step
    sequence_s: float  # of a step and an engine: sequences decoded, over time
    age: float  # versions between a question's first token and its training
    oldest: int


class Tabled:
    """Served, with steps interpolated."""

    def __init__(self, served: Served):
        self._served = served
        self._table: dict[tuple[int, int], float] = {}

    def decode_s(self, batch: int, context: float) -> float:
        """As Served."""
        b, c = _below(BATCHES, batch), _below(CONTEXTS, context)
        along = (context - CONTEXTS[c]) / (CONTEXTS[c + 1] - CONTEXTS[c])
        beside = (batch - BATCHES[b]) / (BATCHES[b + 1] - BATCHES[b])
        low, high = (self._at(one, c) * (1 - along) + self._at(one, c + 1) * along for one in (b, b + 1))
        return low * (1 - beside) + high * beside

    def _at(self, batch: int, context: int) -> float:
        if (batch, context) not in self._table:
            self._table[batch, context] = self._served.decode_s(BATCHES[batch], max(1, CONTEXTS[context]))
        return self._table[batch, context]

    def prefill_s(self, length: int, prefix: int = 0) -> float:
        """As Served, for lengths in steps of 64."""
        return self._served.prefill_s(-(-length // 64) * 64, prefix=prefix)


def _below(grid: Sequence[int], value: float) -> int:
    return min(max(bisect_right(grid, value) - 1, 0), len(grid) - 2)


@dataclass(eq=False)
class _Question:
    version: int  # under which it was begun
    left: int  # samples that have not ended
    engine: "_Engine | None" = None
    prompt_cached: bool = False


@dataclass(eq=False)
class _Sample(Decoding):
    question: _Question = None
    cached: int = 0  # tokens, where it was cut


@dataclass(eq=False)
class _Engine:
    """Exact up to the moment `at`."""

    sampler: Sampler
    batch: Batch
    served: Tabled
    at: float = 0.0
    questions: int = 0
    waiting: deque[_Sample] = field(default_factory=deque)
    promised: int = 0
    sequence_s: float = 0.0
    _end: float | None = None  # next_end(), where it is known

    def next_end(self) -> float:
        """The moment at which a sample ends, if nothing comes in between."""
        if self._end is None:
            self._end = self.at + UNEVEN * self.batch.seconds(self.batch.to_next_end())
        return self._end

    def advance_to(self, moment: float) -> list[_Sample]:
        """Samples that ended: by then, but at most those that end first."""
        if not self.batch:
            self.at = max(self.at, moment)
            return []
        steps, end = self.batch.to_next_end(), self.next_end()
        steps = steps if moment >= end else int(steps * max(0.0, moment - self.at) / (end - self.at))
        seconds = UNEVEN * self.batch.seconds(steps)
        self.at, self._end = self.at + seconds, None
        self.sequence_s += seconds * len(self.batch)
        ended = self.batch.advance(steps)
        self.promised -= sum(s.context + s.left for s in ended)
        return ended

    def begin_waiting(self) -> None:
        """What has room is prefilled, and decoded from then on."""
        while self.waiting and len(self.batch) < self.sampler.at_once:
            sample = self.waiting[0]
            if self.batch and self.promised + sample.context + sample.left > self.sampler.room:
                return
            self.waiting.popleft()
            self.promised += sample.context + sample.left
            self.at, self._end = self.at + UNEVEN * self._prefill_s(sample), None
            self.batch.join(sample)

    def _prefill_s(self, sample: _Sample) -> float:
        cached = max(sample.cached, self.sampler.prompt if sample.question.prompt_cached else 0)
        sample.question.prompt_cached = True
        return self.served.prefill_s(sample.context - cached, cached) if sample.context > cached else 0.0

    def cut(self, keeps: bool) -> None:
        """All that runs waits, and has to be computed again, unless the engine keeps what it has cached."""
        for sample in list(self.batch.sequences):
            sampled = self.batch.sampled(sample)
            self.batch.leave(sample)
            sample.context, sample.left = sample.context + sampled, sample.left - sampled
            sample.cached = sample.context if keeps else 0
            sample.question.prompt_cached = keeps
            self.waiting.append(sample)
        self.promised = 0


class _Run:
    """A run's engines and questions from step to step."""

    def __init__(self, sampler: Sampler, lengths: Sequence[int], engines: int, schedule: Schedule):
        self._sampler, self._schedule = sampler, schedule
        served = Tabled(sampler.served)
        self._engines = [_Engine(sampler, Batch(served), served) for _ in range(engines)]
        self._lengths, self._dice, self._drawn = list(lengths), random.Random(0), []
        self._open: set[_Question] = set()
        self._finished: list[_Question] = []
        self._version = 0
        self.now, self.ages = 0.0, []
        for number in range(schedule.in_flight):  # as far on as they are once a run is under way, or it would swing for many steps
            self._draw(max(lengths) * number // schedule.in_flight)

    @property
    def sequence_s(self) -> float:
        return sum(engine.sequence_s for engine in self._engines)

    def step(self) -> None:
        """One step of the run: `now` is the moment at which its weights are published."""
        self._fill()
        due = {q for q in self._open if self._version + 1 - q.version > self._schedule.max_age}
        while len(self._finished) < self._schedule.questions or not due <= set(self._finished):
            self._next()
        chosen = (list(due) + [q for q in self._finished if q not in due])[: max(self._schedule.questions, len(due))]
        self.ages += [self._version - q.version for q in chosen]
        self._finished = [q for q in self._finished if q not in chosen]
        self._open.difference_update(chosen)
        self._train_and_publish()

    def _train_and_publish(self) -> None:
        moment = self.now + self._schedule.training_s
        if self._schedule.turns:
            self._cut()
        else:
            while self._next(moment):
                pass
            self._cut()
        self.now = moment + self._schedule.sync_s
        self._version += 1
        for engine in self._engines:
            engine.at = max(engine.at, self.now)
            engine.begin_waiting()

    def _cut(self) -> None:
        for engine in self._engines:
            engine.advance_to(self.now)
            engine.cut(self._schedule.keeps)

    def _next(self, until: float = float("inf")) -> bool:
        """To the next end of a sample; False where none comes before `until`, which is now then."""
        busy = [engine for engine in self._engines if engine.batch]
        engine = min(busy, key=_Engine.next_end) if busy else None
        if engine is None or engine.next_end() > until:
            self.now = until
            return False
        ended = engine.advance_to(engine.next_end())
        self.now = max(self.now, engine.at)
        for sample in ended:
            self._end(sample)
        engine.begin_waiting()
        return True

    def _end(self, sample: _Sample) -> None:
        sample.question.left -= 1
        if not sample.question.left:
            sample.question.engine.questions -= 1
            self._finished.append(sample.question)
            if len(self._open) < self._schedule.in_flight + self._schedule.questions:
                self._draw()

    def _fill(self) -> None:
        """As many under way as may be."""
        while len(self._open) - len(self._finished) < self._schedule.in_flight:
            self._draw()

    def _draw(self, sampled: int = 0) -> None:
        """One more question, to the engine with the least to do; of its answers so many tokens are there."""
        engine, prompt = min(self._engines, key=lambda one: one.questions), self._sampler.prompt
        left = [max(0, self._length() - sampled) for _ in range(self._sampler.shared)]
        left[0] = max(1, left[0])
        question = _Question(self._version, sum(tokens > 0 for tokens in left), engine)
        self._open.add(question)
        engine.questions += 1
        engine.waiting += [_Sample(prompt + sampled, tokens, question=question) for tokens in left if tokens]
        engine.advance_to(self.now)
        engine.begin_waiting()

    def _length(self) -> int:
        if not self._drawn:
            self._drawn = self._dice.sample(self._lengths, len(self._lengths))
        return self._drawn.pop()


@lru_cache(maxsize=64)
def simulated(sampler: Sampler, lengths: tuple[int, ...], engines: int, schedule: Schedule) -> Simulated:
    """Steps of a run once it is under way. `lengths`: of a step's responses."""
    run = _Run(sampler, lengths, engines, schedule)
    for _ in range(1 + ceil(schedule.in_flight / schedule.questions)):
        run.step()
    begun, decoded, run.ages = run.now, run.sequence_s, []
    for _ in range(MEASURED):
        run.step()
    seconds = run.now - begun
    sequence_s = (run.sequence_s - decoded) / MEASURED / engines
    return Simulated(seconds / MEASURED, sequence_s, fmean(run.ages), max(run.ages))
