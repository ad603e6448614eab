"""Sampling: prompts in, trajectories out as they finish, so that what comes next overlaps with generation."""

import asyncio
import hashlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace

import aiohttp

from megatron_oreal.engines.engines import Engines
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.dispatch import ATTEMPTS, Dispatch, Request, RetryCounts, Stopped
from megatron_oreal.trajectory import NoEngine, Prompt, Span, Trajectory, Unfinished

JOIN_S = 10.0
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "min_new_tokens": 0}
"""What answers are not sampled by, whatever a server (its preferred-sampling-params) or a model's generation_config.json recommends."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled; temperature 0 is greedy."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


class Rollout:
    """Asks the engines in service, each question on the one with the least to do."""

    def __init__(self, config: RolloutConfig, engines: Engines, tokenizer, seed: int = 0):
        """`seed` matters where rollout.deterministic is set."""
        self.config, self.engines, self._tokenizer, self._seed = config, engines, tokenizer, seed
        self._stop = tokenizer.encode(config.stop_word, add_special_tokens=False)[0]
        # An engine without a tokenizer (see Server) knows only those end tokens that the model's configuration names.
        self._ends = sorted({self._stop, tokenizer.eos_token_id} - {None})
        self._sampling = Sampling(config.samples, config.temperature, config.top_p, config.max_new_tokens)
        self.retry_counts = RetryCounts()

    def generate(
        self, prompts: Sequence[Prompt], version: int, sampling: Sampling | None = None, unfinished: Sequence[Unfinished] = ()
    ) -> "InFlight":
        """Trajectories in the order in which they finish, each exactly once.

        One request a question with n samples: the server computes the prompt once, and for a tiny model on CPU the cost of a
        request is that of hundreds of tokens. Where sampling is to be deterministic, one request a sample, each with its own seed.
        Either way a sample's answer comes when that sample ends, not with the question's last one.
        An engine that ends, hangs or answers nonsense is given up (see Engines); its unfinished questions go to others.
        `unfinished` questions of an earlier step are resumed before the prompts are asked.

        Raises:
            ValueError: a prompt that leaves no room for an answer.
            ServerError (from the iteration): a request was refused, a question failed on ATTEMPTS engines, or no engine is left.
        """
        for prompt in prompts:
            if len(prompt.token_ids) >= self.config.max_total_tokens:
                raise ValueError(f"prompt {prompt.id}: {len(prompt.token_ids)} tokens leave no room for an answer")
        return InFlight(self, [*unfinished, *(Unfinished(p, []) for p in prompts)], version, sampling or self._sampling)

    def take_those_that_are_back(self) -> None:
        """Where no policy is trained the weights of the model folder, with which an engine starts, are the right ones.

        Raises:
            EnginesGone: none comes back.
        """
        self.engines.put_in_service(self.engines.for_sync())

    def requests(self, asked: Unfinished, sampling: Sampling) -> list[Request]:
        """For a question's samples; for a resumed question's cut ones alone."""
        prompt = asked.prompt
        if asked.trajectories:
            return [Request(self._body(prompt, t.index, sampling, t.token_ids), [t.index]) for t in asked.trajectories if t.finish == "cut"]
        if not self.config.deterministic:
            return [Request(self._body(prompt, 0, sampling), list(range(sampling.samples)))]
        return [Request(self._body(prompt, index, sampling), [index]) for index in range(sampling.samples)]

    def _body(self, prompt: Prompt, index: int, sampling: Sampling, begun: Sequence[int] = ()) -> dict:
        room = min(sampling.max_new_tokens, self.config.max_total_tokens - len(prompt.token_ids)) - len(begun)
        parameters = NEUTRAL | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": room,
            "stop_token_ids": self._ends,
        }
        if self.config.deterministic:
            name = hashlib.sha256(f"{self._seed}/{prompt.id}/{index}".encode())  # a prompt's id is that of its draw
            parameters["sampling_seed"] = int.from_bytes(name.digest()[:4], "big")
        return {"input_ids": [*prompt.token_ids, *begun], "return_logprob": True, "sampling_params": parameters}

    def trajectory(self, asked: Unfinished, index: int, version: int, answer: dict) -> Trajectory:
        """What an answer makes of sample `index`: a new trajectory, or one that was cut with what was sampled since."""
        new = self._trajectory(asked.prompt, index, version, answer)
        begun = [t for t in asked.trajectories if t.index == index]
        return self._joined(begun[0], new) if begun else new

    def _trajectory(self, prompt: Prompt, index: int, version: int, answer: dict) -> Trajectory:
        token_ids, finish = answer["output_ids"], self._finish(answer["meta_info"]["finish_reason"])
        return Trajectory(
            prompt=prompt,
            index=index,
            token_ids=token_ids,
            logprobs=[entry[0] for entry in answer["meta_info"]["output_token_logprobs"]],
            text=self._text(token_ids, finish),
            finish=finish,
            version=version,
        )

    def _text(self, token_ids: Sequence[int], finish: str) -> str:
        """Decoded here, not by the engine: it would load a tokenizer by itself. Without the end token, special or not."""
        ended = finish in ("stop", "abort")
        return self._tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=True)

    def _joined(self, begun: Trajectory, new: Trajectory) -> Trajectory:
        before = Span(begun.version, len(begun.token_ids) - sum(span.tokens for span in begun.earlier))
        token_ids = begun.token_ids + new.token_ids
        return replace(
            new,
            token_ids=token_ids,
            logprobs=begun.logprobs + new.logprobs,
            text=self._text(token_ids, new.finish),
            earlier=[*begun.earlier, before] if before.tokens else begun.earlier,
        )

    def _finish(self, reason: dict) -> str:
        """The model's other end tokens stop the server too; only the stop word's makes an answer complete (spec, step 1)."""
        if reason["type"] == "abort":
            return "cut"  # by us: nobody else has this engine's key
        return "abort" if reason["type"] == "stop" and reason["matched"] != self._stop else reason["type"]


class InFlight:
    """Questions being sampled; iterate over it, or over its `events`, once. Closed when the iteration ends, however it does."""

    def __init__(self, rollout: Rollout, asked: Sequence[Unfinished], version: int, sampling: Sampling):
        self._rollout, self._asked, self._version, self._sampling = rollout, asked, version, sampling
        self.unfinished: list[Unfinished] = []  # those that stop_early cut; what they have got so far was given out as well
        self._finished: queue.SimpleQueue = queue.SimpleQueue()
        self._dispatch: Dispatch | None = None
        self._worker: _LoopThread | None = None

    def __iter__(self) -> Iterator[Trajectory]:
        """For whoever trains no policy: engines that come back are taken as they are."""
        with closing(self.events()) as events:
            for event in events:
                if isinstance(event, NoEngine):
                    self._rollout.take_those_that_are_back()
                else:
                    yield event

    def events(self) -> Iterator[Trajectory | NoEngine]:
        """Trajectories as they finish. After a NoEngine the next may be asked for when an engine is in service again, not before."""
        self._worker = _LoopThread(self._ask_all(), self._finished)
        left = len(self._asked)
        try:
            while left:
                item = self._next()
                if isinstance(item, Trajectory):
                    yield item
                elif isinstance(item, _Revival):
                    yield NoEngine()
                    self._worker.call(item.revived)
                else:
                    left -= 1
                    self.unfinished += [item.cut] if item.cut else []
        finally:  # where the caller has lost interest, or a request failed, the server is to stop sampling as well
            self._worker.cancel()

    def __length_hint__(self) -> int:
        """How many trajectories come, unless sampling is cut."""
        return len(self._asked) * self._sampling.samples

    def stop_early(self) -> None:
        """Cut what is still being sampled: the iteration ends soon, `unfinished` says with what. From any thread."""
        self._worker.call(self._stop)

    def cut(self) -> set[str]:
        """The prompts of `unfinished`: not all of their samples came."""
        return {u.prompt.id for u in self.unfinished}

    def _next(self) -> "Trajectory | _Ended | _Revival":
        """What came next; requests have deadlines of their own, this one is above them."""
        config = self._rollout.config
        rounds = -(-len(self._asked) // config.concurrency) * ATTEMPTS + 1
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
            aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
            Dispatch(config, self._rollout.engines, session, self._rollout.retry_counts, self._version, self._revive) as self._dispatch,
            asyncio.TaskGroup() as tasks,
        ):
            for asked in self._asked:
                tasks.create_task(self._ask(asked))

    async def _stop(self) -> None:
        if self._dispatch:
            await self._dispatch.stop()

    async def _ask(self, asked: Unfinished) -> None:
        ended: list[Trajectory] = []

        def take(index: int, answer: dict) -> None:
            ended.append(self._rollout.trajectory(asked, index, self._version, answer))
            if ended[-1].finish != "cut":
                self._finished.put(ended[-1])

        for before in asked.trajectories:  # ended before the question was cut
            if before.finish != "cut":
                ended.append(before)
                self._finished.put(before)
        try:
            await self._dispatch.ask(asked.prompt.id, self._rollout.requests(asked, self._sampling), take)
        except Stopped:
            self._finished.put(_Ended(asked))
            return
        was_cut = any(t.finish == "cut" for t in ended)
        self._finished.put(_Ended(Unfinished(asked.prompt, sorted(ended, key=lambda t: t.index)) if was_cut else None))

    async def _revive(self) -> None:
        revival = _Revival()
        self._finished.put(revival)
        await revival.event.wait()


@dataclass(frozen=True)
class _Ended:
    """In the queue of what is finished: nothing more comes of a question."""

    cut: Unfinished | None = None  # where it was cut, what there is


class _Revival:
    """In the queue of what is finished: nothing goes on until an engine is in service again."""

    def __init__(self):
        self.event = asyncio.Event()

    async def revived(self) -> None:
        self.event.set()


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
