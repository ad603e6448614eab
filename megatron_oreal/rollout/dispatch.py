"""Which engine is asked what: the one with the least to do; what a lost engine leaves unfinished goes to others, once.

A question's samples are asked for together and taken one by one, as each ends.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import aiohttp

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.answers import Answer, checked, events_of
from megatron_oreal.rollout.config import RolloutConfig

if TYPE_CHECKING:
    from megatron_oreal.rollout.generate import Rollout

ATTEMPTS = 5
"""Of one question, on whichever engines. A question that fails so often may be what kills them."""
STRIKES = 3
"""Failures in a row after which an engine is given up that still answers for its health."""
RETRY_AFTER_S = 1.0
OVERLOADED = (408, 429)
NEVER = 1 << 30
"""Tokens between two signs of life of a sample that is still being sampled; its end is always told."""


@dataclass(frozen=True)
class Request:
    """What to post for some samples of a question."""

    body: dict  # of samples that go on a list of tokens and parameters for each, else what they have in common
    samples: list[int]  # their numbers; the engine says which of them it means


Take = Callable[[int, Answer], None]
"""Called with a sample's number and the engine's answer, when that sample has ended."""


@dataclass
class RetryCounts:
    """What was asked again: what went wrong with engines was made good, what had been cut went on."""

    retries: int = 0  # requests sent again
    moved: int = 0  # trajectories begun on an engine that was lost, and made by another one
    resumed: int = 0  # tokens of trajectories that were cut, with their prompts, when they went on
    resumed_cached: int = 0  # of them: found in the engine's cache

    def taken(self) -> "RetryCounts":
        """As of now; counting begins anew."""
        counts, self.retries, self.moved, self.resumed, self.resumed_cached = replace(self), 0, 0, 0, 0
        return counts


class Stopped(Exception):
    """Sampling was ended early; this question was not asked any more."""


class _Trouble(Exception):
    """A request failed in a way that another attempt may not."""


class _Slow(_Trouble):
    """No answer within the deadline, of an engine that says it is healthy: perhaps it has too much to do, it is not given up for that."""


class Dispatch:
    """Hands out requests while it is entered (`async with`), and watches the engines that have some."""

    def __init__(
        self,
        config: RolloutConfig,
        rollout: "Rollout",
        session: aiohttp.ClientSession,
        version: int,
        revive: Callable[[], Awaitable[None]],
    ):
        """`version` of the weights that answers must come from; `revive` returns when an engine is in service again."""
        self._config, self._engines, self._session = config, rollout.engines, session
        self._retry_counts, self._homes = rollout.retry_counts, rollout.homes
        self._version, self._revive = str(version) if version else None, revive
        self._running: Counter[Endpoint] = Counter()  # questions
        self._strikes: Counter[Endpoint] = Counter()
        self._gone: dict[Endpoint, asyncio.Event] = {}  # set when the engine is given up
        self._why: dict[Endpoint, str] = {}  # it was
        self._changed = asyncio.Condition()
        self._reviving = asyncio.Lock()
        self._watch: asyncio.Task | None = None
        self.stopped = False

    async def __aenter__(self) -> "Dispatch":
        self._watch = asyncio.create_task(self._watch_all())
        return self

    async def __aexit__(self, *_) -> None:
        self._watch.cancel()

    async def ask(self, name: str, requests: list[Request], take: Take) -> None:
        """Get a question's samples, all from one engine; those that it still owes when it is lost, from another one.

        Raises:
            ServerError: refused, failed ATTEMPTS times, or no engine is left.
            Stopped: it had not been asked yet when stop() was called.
        """
        for attempt in range(1, ATTEMPTS + 1):
            pending = [_PendingRequest(request, take) for request in requests]
            async with self._engine(name) as (engine, gone):
                try:
                    await self._unless_gone(engine, gone, self._all(engine, pending, name))
                    self._strikes[engine] = 0
                    if not self.stopped:
                        self._homes.pop(name, None)
                    return
                except _Trouble as error:
                    trouble = error
                if not gone.is_set() and not isinstance(trouble, _Slow):
                    await self._strike(engine, str(trouble))
            requests = [o.rest for o in pending if o.rest.samples]
            if not requests:
                return  # it broke off after the last sample
            if gone.is_set():
                self._retry_counts.moved += sum(len(request.samples) for request in requests)
            else:
                self._retry_counts.retries += len(requests)
                await asyncio.sleep(RETRY_AFTER_S * attempt)
        raise ServerError(f"rollout: question {name} failed {ATTEMPTS} times, at last: {trouble}")

    async def stop(self) -> None:
        """End what runs, with what has been sampled so far; ask nothing more."""
        self.stopped = True
        async with self._changed:
            self._changed.notify_all()
        await asyncio.gather(*(self._abort(e) for e in self._engines.serving))

    async def _abort(self, engine: Endpoint) -> None:
        """Until nothing runs there: a request that the engine had not yet received would not be ended by the first call."""
        while self._running[engine] or (self._config.router and self._running.total()):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.post(engine.url + "/abort_request", json={"abort_all": True}, headers=engine.headers):
                    pass
            await asyncio.sleep(RETRY_AFTER_S / 10)

    @asynccontextmanager
    async def _engine(self, name: str) -> AsyncIterator[tuple[Endpoint, asyncio.Event]]:
        """A place for a question, as soon as there is one, and the event of that engine's being given up.

        On the engine with the least to do; where caches are kept, on the one that has its own.
        """
        engine = await self._with_room(self._homes.get(name))
        if self._config.keep_cache:
            self._homes[name] = engine
        self._running[engine] += 1
        if engine not in self._gone or self._gone[engine].is_set():  # new, or back
            self._gone[engine], self._strikes[engine] = asyncio.Event(), 0
        gone = self._gone[engine]
        try:
            yield engine, gone
        finally:
            self._running[engine] -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _with_room(self, home: Endpoint | None) -> Endpoint:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.stopped or not self._engines.serving or self._free())
            if self.stopped:
                raise Stopped
            if free := self._free():
                return min(free, key=lambda e: (self._strikes[e], e != home, self._running[e]))
            async with self._reviving:  # the first to notice does it for all
                if not self._engines.serving:
                    await self._revive()

    def _free(self) -> list[Endpoint]:
        serving = self._engines.serving
        if self._config.router and serving:  # it spreads the load itself, and finds out by itself which of them are well
            router = Endpoint(self._config.router.rstrip("/"), serving[0].key)
            return [router] if self._running[router] < self._config.concurrency * len(serving) else []
        return [e for e in serving if self._running[e] < self._config.concurrency]

    async def _unless_gone(self, engine: Endpoint, gone: asyncio.Event, work) -> None:
        """Does the `work`; _Trouble as soon as the engine is given up, whatever the work still waits for."""
        task, waiting = asyncio.ensure_future(work), asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _Trouble(f"{engine.url} was given up: {self._why[engine]}")
            task.result()
        finally:
            task.cancel()
            waiting.cancel()

    async def _all(self, engine: Endpoint, pending: list["_PendingRequest"], name: str) -> None:
        await asyncio.gather(*(self._post(engine, one, name) for one in pending))

    async def _post(self, engine: Endpoint, pending: "_PendingRequest", name: str) -> None:
        url = engine.url + "/generate"
        try:
            async with self._session.post(url, json=pending.body, headers=engine.headers) as answer:
                if answer.status != 200:
                    raise _refusal(engine, name, answer.status, await answer.text())
                async for event in events_of(answer.content):
                    if "error" in event:  # a status of its own: the stream had begun with 200
                        raise _refusal(engine, name, event["error"]["code"], event["error"]["message"])
                    self._take(pending, event, f"{url}: the engine cut prompt {name} short")
            if pending.rest.samples:
                raise ValueError(f"{len(pending.rest.samples)} samples never came")
        except TimeoutError as error:
            raise _Slow(f"{url}: no answer within rollout.request_timeout_s={self._config.request_timeout_s:.0f} s") from error
        except (aiohttp.ClientError, ValueError, KeyError, TypeError, IndexError) as error:
            raise _Trouble(f"{url}: {type(error).__name__} {error}") from error

    def _take(self, pending: "_PendingRequest", event: Answer, cut_short: str) -> None:
        if event["meta_info"]["finish_reason"] is None:
            return  # a sign of life
        if event["meta_info"]["finish_reason"]["type"] == "abort" and not self.stopped:
            raise _Trouble(cut_short)
        pending.take(checked(event, self._version))

    async def _strike(self, engine: Endpoint, why: str) -> None:
        """The engine failed once more: given up if it has ended, or has done nothing else for a while."""
        self._strikes[engine] += 1
        if ended := await asyncio.to_thread(self._engines.ended, engine):
            await self._give_up(engine, ended)
        elif self._strikes[engine] >= STRIKES:
            await self._give_up(engine, f"{STRIKES} failures in a row, the last one: {why}")

    async def _give_up(self, engine: Endpoint, why: str) -> None:
        await asyncio.to_thread(self._engines.give_up, engine, why)
        self._why[engine] = why
        self._gone[engine].set()
        async with self._changed:
            self._changed.notify_all()

    async def _watch_all(self) -> None:
        while True:
            await asyncio.sleep(self._config.health_interval_s)
            await asyncio.gather(*(self._look(e) for e in self._engines.serving if self._running[e]))

    async def _look(self, engine: Endpoint) -> None:
        """Give up an engine that has ended, or does not say within rollout.lost_after_s that it can generate."""
        try:
            async with asyncio.timeout(self._config.lost_after_s):
                while not (ended := await asyncio.to_thread(self._engines.ended, engine)):
                    if await self._is_healthy(engine):
                        return
                    await asyncio.sleep(RETRY_AFTER_S)
        except TimeoutError:
            ended = f"no sign of health within rollout.lost_after_s={self._config.lost_after_s:.0f} s"
        await self._give_up(engine, ended)

    async def _is_healthy(self, engine: Endpoint) -> bool:
        try:
            async with self._session.get(engine.url + "/health", headers=engine.headers) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


def _refusal(engine: Endpoint, name: str, status: int, said: str) -> ServerError | _Trouble:
    text = f"{engine.url}/generate: status {status} for prompt {name}, {said[:300].strip()}"
    return _Trouble(text) if status >= 500 or status in OVERLOADED else ServerError(text + engine.where())


class _PendingRequest:
    """A request under way: which of its samples have not ended yet."""

    def __init__(self, request: Request, take: Take):
        self._request, self._take, self._left = request, take, list(request.samples)
        given = request.body["sampling_params"]
        if isinstance(given, list):
            parameters = [each | {"stream_interval": NEVER} for each in given]
        else:
            parameters = given | {"n": len(request.samples), "stream_interval": NEVER}
        self.body = request.body | {"sampling_params": parameters, "stream": True}

    def take(self, answer: Answer) -> None:
        """Raises ValueError where it is no answer to this request."""
        number = answer.get("index", 0)
        sample = self._request.samples[number]
        if sample not in self._left:
            raise ValueError(f"sample {number} came twice")
        self._left.remove(sample)
        self._take(sample, answer)

    @property
    def rest(self) -> Request:
        """The request for those."""
        body, samples = self._request.body, self._request.samples
        if isinstance(body["sampling_params"], list):
            left = [place for place, sample in enumerate(samples) if sample in self._left]
            body = body | {name: [body[name][place] for place in left] for name in ("input_ids", "sampling_params")}
        return Request(body, self._left)
