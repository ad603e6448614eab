"""An engine as far as its schedule goes: what waits, is computed and decoded, in virtual seconds of the plan's operations."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from megatron_oreal.plan.operations.batch import Batch, Decoding
from megatron_oreal.plan.operations.sampling import Sampler
from megatron_oreal.simulated.answers import Answer, Asked
from megatron_oreal.simulated.clock import Clock

STRIDE = 256
"""Most tokens between two looks at the clock. Whatever comes in between interrupts."""
RESERVED = (0.1, 4096)
"""SGLang 0.5.21 keeps room for this share of what a sequence may still sample, of so many tokens at most (new-token ratio, once it has
sunk; CLIP_MAX_NEW_TOKENS)."""
Finish = Literal["stop", "length", "abort"]


@dataclass(eq=False)
class Sequence(Decoding):
    """A sample that was asked for."""

    asked: Asked = None
    answer: Answer = None
    tell: Callable[["Sequence", Finish | None], None] = None  # of its first token, and of its end
    ends: Finish = "stop"
    index: int = 0  # in its request
    done: int = 0  # tokens for this request
    prefilled: int = 0  # tokens that had to be computed before the first one
    retractions: int = 0
    versions: list[tuple[str, int]] = field(
        default_factory=list
    )  # version of the weights, and the tokens that were there when it took over


@dataclass
class Figures:
    """Of what an engine has done since it was started; virtual seconds."""

    tokens: int = 0
    decoding_s: float = 0.0
    prefilling_s: float = 0.0
    sequence_s: float = 0.0  # how many were decoded, over time
    idle_since: float | None = None  # a moment; None: it is busy


class Engine:
    """Prefills before it decodes, all that waits and has room; decodes everything that runs together."""

    def __init__(self, sampler: Sampler, slower: float, clock: Clock):
        """`slower`: than its operations added up; see plan.operations.sampling.UNEVEN."""
        self._served, self._room, self._at_once = sampler.served, sampler.room, sampler.at_once
        self._slower, self._clock, self._at = slower, clock, 0.0
        self._waiting: deque[Sequence] = deque()
        self._batch = Batch(sampler.served)
        self._prompts: set[int] = set()  # cached
        self._cut: dict[tuple[int, int], int] = {}  # question and sample that were cut -> tokens that are cached of them
        self._orders: list[tuple[Callable[[], Any], asyncio.Future]] = []
        self._changed = asyncio.Event()
        self.paused, self.version, self.figures = False, "default", Figures()

    def ask(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)
        self._changed.set()

    async def order(self, work: Callable[[], Any]) -> Any:
        """Have work done between two steps; what it returns."""
        done = asyncio.get_running_loop().create_future()
        self._orders.append((work, done))
        self._changed.set()
        return await done

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._batch)

    async def serve(self) -> None:
        """For ever."""
        while True:
            self._changed.clear()
            self._obey()
            if self.paused or not self.busy:
                self.figures.idle_since = self._at
                await self._changed.wait()
                self._at, self.figures.idle_since = max(self._at, self._clock.now), None
            elif begun := self._begin():
                await self._prefill(begun)
            else:
                await self._decode()

    def _obey(self) -> None:
        orders, self._orders = self._orders, []
        for work, done in orders:
            if not done.cancelled():
                done.set_result(work())

    def _begin(self) -> list[Sequence]:
        """Those that find room, in the order in which they came."""
        begun, running = [], list(self._batch.sequences)
        kept = self._batch.cached + sum(self._kept_for(s) for s in running)
        while self._waiting and len(running) < self._at_once:
            wanted = self._waiting[0].context + self._kept_for(self._waiting[0])
            if running and kept + wanted > self._room:
                break
            kept += wanted
            begun.append(self._waiting.popleft())
            running.append(begun[-1])
        return begun

    def _kept_for(self, sequence: Sequence) -> int:
        share, most = RESERVED
        return int(share * min(most, sequence.left))

    async def _prefill(self, begun: list[Sequence]) -> None:
        seconds = self._slower * sum(self._prefill_s(sequence) for sequence in begun)
        self._at += seconds
        self.figures.prefilling_s += seconds
        await self._clock.wait_until(self._at)
        for sequence in begun:
            self._batch.join(sequence)
            sequence.versions = sequence.versions or [(self.version, 0)]
            if not sequence.done:
                sequence.tell(sequence, None)

    def _prefill_s(self, sequence: Sequence) -> float:
        """Of a prompt that nobody else had computed, and of what was sampled before."""
        asked, cached = sequence.asked, 0
        if asked.name in self._prompts:
            cached = min(asked.prompt, sequence.context - 1)
        cached = max(cached, min(self._cut.pop((asked.name, sequence.answer.number), 0), sequence.context - 1))
        self._prompts.add(asked.name)
        sequence.prefilled = sequence.context - cached
        return self._served.prefill_s(sequence.prefilled, prefix=cached) if sequence.prefilled > 1 else 0.0

    async def _decode(self) -> None:
        while self._batch.cached + len(self._batch) > self._room and len(self._batch) > 1:
            self._retract(self._batch.sequences[-1])
        room = max(1, (self._room - self._batch.cached) // len(self._batch))
        steps = min(STRIDE, self._batch.to_next_end(), room)
        seconds = self._slower * self._batch.seconds(steps)
        if not await self._clock.reaches(self._at + seconds, self._changed):
            passed = min(1.0, max(0.0, self._clock.now - self._at) / seconds)
            steps, seconds = int(steps * passed), seconds * int(steps * passed) / steps
        self._advance(steps, seconds)

    def _advance(self, steps: int, seconds: float) -> None:
        self._at += seconds
        self.figures.tokens += steps * len(self._batch)
        self.figures.decoding_s += seconds
        self.figures.sequence_s += seconds * len(self._batch)
        for sequence in self._batch.advance(steps):
            sequence.done += sequence.left
            sequence.tell(sequence, sequence.ends)

    def _take_out(self, sequence: Sequence) -> None:
        sampled = self._batch.sampled(sequence)
        self._batch.leave(sequence)
        sequence.done, sequence.left, sequence.context = sequence.done + sampled, sequence.left - sampled, sequence.context + sampled

    def _retract(self, sequence: Sequence) -> None:
        """Back among those that wait, with its tokens, which have to be computed again."""
        self._take_out(sequence)
        sequence.retractions += 1
        self._waiting.appendleft(sequence)

    def abort(self, wanted: Callable[[Sequence], bool]) -> None:
        """End some with what they have; an order."""
        for sequence in [s for s in self._batch.sequences if wanted(s)]:
            self._take_out(sequence)
            self._cut[sequence.asked.name, sequence.answer.number] = sequence.context
            sequence.tell(sequence, "abort")
        for sequence in [s for s in self._waiting if wanted(s)]:
            self._waiting.remove(sequence)
            sequence.tell(sequence, "abort")

    def pause(self, mode: str) -> None:
        """SGLang's modes; an order."""
        self.paused = True
        if mode == "abort":
            self.abort(lambda _: True)
        elif mode == "retract":
            for sequence in list(self._batch.sequences):
                self._retract(sequence)

    def go_on(self) -> None:
        """An order."""
        self.paused = False

    def flush(self) -> bool:
        """Forget what is cached; False, and nothing happens, while anything runs or, unless paused, waits. An order."""
        if self._batch or (self._waiting and not self.paused):
            return False
        self._prompts.clear()
        self._cut.clear()
        return True

    def rename(self, version: str) -> None:
        """Of the weights, from here on; an order."""
        self.version = version
        for sequence in [*self._batch.sequences, *self._waiting]:
            if sequence.versions:
                sampled = self._batch.sampled(sequence) if sequence in self._batch.sequences else 0
                sequence.versions.append((version, sequence.done + sampled))
