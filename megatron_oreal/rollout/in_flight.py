"""Questions under way: asked on an event loop of their own, trajectories handed out as they finish, others cut or joined meanwhile."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.dispatch import ATTEMPTS, Dispatch, Stopped
from megatron_oreal.trajectory import NoEngine, Prompt, Trajectory, Unfinished

if TYPE_CHECKING:
    from megatron_oreal.rollout.generate import Rollout, Sampling

JOIN_S = 10.0
More = Callable[[int], Prompt | None]
"""Called when a sample has ended, with how many questions are under way: draws one more; None: there is none, now."""


class InFlight:
    """Questions being sampled; iterate over it, or over its `events`.

    Closed when the iteration ends, however it does. Not so after `leave`: then sampling goes on, and another iteration may follow.
    """

    def __init__(self, rollout: "Rollout", asked: Sequence[Unfinished], version: int, sampling: "Sampling", more: More | None = None):
        self._rollout, self._asked, self._version, self._sampling, self._more = rollout, asked, version, sampling, more
        self.unfinished: list[Unfinished] = []  # those that stop_early cut; what they have got so far was given out as well
        self._finished: queue.SimpleQueue = queue.SimpleQueue()
        self._dispatch: Dispatch | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._worker: _LoopThread | None = None
        self._left = len(asked)  # questions of which more may come
        self._under_way = sum(not one.is_whole(sampling.samples) for one in asked)  # counted where they are asked
        self._given: dict[str, list[Trajectory]] = {}  # prompt id -> what was given out; until taken(), where iterations follow each other

    def __iter__(self) -> Iterator[Trajectory]:
        """For whoever trains no policy: engines that come back are taken as they are."""
        with closing(self.events()) as events:
            for event in events:
                if isinstance(event, NoEngine):
                    self._rollout.take_those_that_are_back()
                else:
                    yield event

    def begin(self) -> None:
        """Ask; the first iteration does where nobody else has."""
        self._worker = self._worker or _LoopThread(self._ask_all(), self._finished)

    def events(self) -> Iterator[Trajectory | NoEngine]:
        """Trajectories as they finish. After a NoEngine the next may be asked for when an engine is in service again, not before.

        First those that an iteration before this one gave out, and that were not taken().
        """
        self.begin()
        try:
            yield from [trajectory for given in self._given.values() for trajectory in given]
            while self._left:
                item = self._next()
                if isinstance(item, Trajectory):
                    if self._more:
                        self._given.setdefault(item.prompt.id, []).append(item)
                    yield item
                elif isinstance(item, _Revival):
                    yield NoEngine()
                    self._worker.call(item.revived)
                elif isinstance(item, _Leave):
                    return
                elif isinstance(item, _Joined):
                    self._left += 1
                else:
                    self._left -= 1
                    self.unfinished += [item.cut] if item.cut else []
        except BaseException:  # where the caller has lost interest, or a request failed, the server is to stop sampling as well
            self.close()
            raise
        self.close()

    @property
    def ended(self) -> bool:
        """Whether nothing is being sampled any more."""
        return self._worker is not None and not self._worker.is_alive()

    def close(self) -> None:
        """End what is still being sampled."""
        if self._worker:
            self._worker.cancel()

    def __length_hint__(self) -> int:
        """How many trajectories come, unless sampling is cut; 0: nobody knows."""
        return 0 if self._more else len(self._asked) * self._sampling.samples

    def stop_early(self) -> None:
        """Cut what is still being sampled: the iteration ends soon, `unfinished` says with what. From any thread."""
        self._worker.call(self._stop)

    def leave(self) -> None:
        """The iteration ends soon; sampling goes on. From any thread."""
        self._finished.put(_Leave())

    def cut(self) -> set[str]:
        """The prompts of which not all samples came."""
        partly = {name for name, given in self._given.items() if len(given) < self._sampling.samples}
        return partly | {u.prompt.id for u in self.unfinished}

    def taken(self, prompt_ids: Iterable[str]) -> None:
        """No later iteration is to give these out again."""
        for prompt_id in prompt_ids:
            self._given.pop(prompt_id, None)

    def cut_all(self) -> list[Unfinished]:
        """End sampling now; all that was not taken, with what there is of it."""
        self.begin()
        self.stop_early()
        for _ in self.events():  # an engine that is lost need not come back for that
            pass
        whole = [given for given in self._given.values() if len(given) == self._sampling.samples]
        return [*self.unfinished, *(Unfinished(given[0].prompt, sorted(given, key=lambda t: t.index)) for given in whole)]

    def _next(self) -> "Trajectory | _Joined | _Ended | _Revival | _Leave":
        """What came next; requests have deadlines of their own, this one is above them."""
        config = self._rollout.config
        rounds = -(-max(len(self._asked), 1) // config.concurrency) * ATTEMPTS + 1
        try:
            item = self._finished.get(timeout=rounds * config.request_timeout_s + config.ready_timeout_s)
        except queue.Empty as error:
            raise ServerError("rollout: sampling stands still") from error
        if isinstance(item, BaseException):
            raise item
        return item

    async def _ask_all(self) -> None:
        config = self._rollout.config
        timeout = aiohttp.ClientTimeout(total=config.request_timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0), json_serialize=_json) as session,
            Dispatch(config, self._rollout, session, self._version, self._revive) as self._dispatch,
            asyncio.TaskGroup() as self._tasks,
        ):
            for asked in self._asked:
                self._tasks.create_task(self._ask(asked))

    async def _stop(self) -> None:
        if self._dispatch:
            await self._dispatch.stop()

    async def _ask(self, asked: Unfinished) -> None:
        ended: list[Trajectory] = []

        def take(index: int, answer: dict) -> None:
            ended.append(self._rollout.trajectory(asked, index, self._version, answer, self._sampling))
            if ended[-1].finish != "cut":
                self._finished.put(ended[-1])
                self._under_way -= len(ended) == self._sampling.samples
                self._ask_one_more()

        for before in asked.trajectories:  # ended before the question was cut
            if before.finish != "cut":
                ended.append(before)
                self._finished.put(before)
        try:
            if requests := self._rollout.requests(asked, self._sampling, self._version):
                await self._dispatch.ask(asked.prompt.id, requests, take)
        except Stopped:
            self._finished.put(_Ended(_merged(asked, ended)))
            return
        was_cut = any(t.finish == "cut" for t in ended)
        self._finished.put(_Ended(_merged(asked, ended) if was_cut else None))

    def _ask_one_more(self) -> None:
        prompt = self._more(self._under_way) if self._more and not self._dispatch.stopped else None
        if prompt:
            self._finished.put(_Joined())
            self._under_way += 1
            self._tasks.create_task(self._ask(Unfinished(prompt, [])))

    async def _revive(self) -> None:
        revival = _Revival()
        self._finished.put(revival)
        await revival.event.wait()


def _merged(asked: Unfinished, ended: Sequence[Trajectory]) -> Unfinished:
    """What there is of a question: samples that have not come since it was resumed stay as they were."""
    samples = {t.index: t for t in asked.trajectories} | {t.index: t for t in ended}
    return Unfinished(asked.prompt, [samples[index] for index in sorted(samples)])


@dataclass(frozen=True)
class _Ended:
    """In the queue of what is finished: nothing more comes of a question."""

    cut: Unfinished | None = None  # where it was cut, what there is


class _Joined:
    """In the queue of what is finished: one more question is being sampled."""


class _Leave:
    """In the queue of what is finished: the iteration is to end, sampling is not."""


class _Revival:
    """In the queue of what is finished: nothing goes on until an engine is in service again."""

    def __init__(self):
        self.event = asyncio.Event()

    async def revived(self) -> None:
        self.event.set()


def _json(body: dict) -> str:
    """Some ten times as fast as json's: a request that goes on has thousands of tokens."""
    return msgspec.json.encode(body).decode()


class _LoopThread(threading.Thread):
    """A coroutine on an event loop of its own; an error goes into `finished`, for the caller's thread to raise."""

    def __init__(self, work: Coroutine, finished: queue.SimpleQueue):
        super().__init__(daemon=True)
        self._finished = finished
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self.start()

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except BaseExceptionGroup as group:
            self._finished.put(group.exceptions[0])
        except BaseException as error:
            self._finished.put(error)
        finally:
            self._loop.run_until_complete(_end_all_others())
            self._loop.close()

    def call(self, make: Callable[[], Coroutine]) -> None:
        """Run a coroutine on the loop, without waiting for it; nothing happens where the loop has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(make()))

    def cancel(self) -> None:
        """Stop whatever is still running, and wait for it."""
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(JOIN_S)


async def _end_all_others() -> None:
    """What was called, and is not done."""
    for task in (others := asyncio.all_tasks() - {asyncio.current_task()}):
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
