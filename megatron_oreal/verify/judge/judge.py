"""The judge: a language model that is asked whether an answer agrees with the gold answer. It may not say "wrong" by accident."""

import asyncio
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from megatron_oreal.errors import ServerError
from megatron_oreal.network import proxies_of_environment
from megatron_oreal.verify.config import JudgeConfig
from megatron_oreal.verify.judge.cache import JudgeCache
from megatron_oreal.verify.judge.hosts import HostFailed, Hosts, NoHost, Refused, read_key
from megatron_oreal.verify.judge.prompt import messages, verdict_of

REPLY_END_CHARS = 300
CLOSE_S = 10.0


@dataclass(frozen=True)
class Ruling:
    """What the judge says of one answer."""

    right: bool | None  # None: undecided
    reason: str
    reply_end: str = ""  # of the last reply
    known: bool = False  # from the cache, or asked for another trajectory at the same time


@dataclass
class JudgeCounts:
    """Requests since the last look."""

    requests: int = 0
    failures: int = 0  # requests without a reply
    unclear: int = 0  # replies without a verdict


LATE = Ruling(None, "judge: late")


class Judge:
    """Asks on an event loop of its own. Use as a context manager, or call `close`."""

    def __init__(self, config: JudgeConfig):
        """Returns when a host answers.

        Raises:
            ValueError: key file or cache cannot be read.
            ServerError: no host answers within start_timeout_s.
        """
        self._config = config
        key = read_key(config)
        self._cache = JudgeCache(config.cache)
        self._asking: dict[str, tuple[asyncio.Task, list[Future]]] = {}  # by cache key
        self._random = random.Random()  # spreads the second attempts
        self.counts = JudgeCounts()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()
        self._hosts = self._run(_make_hosts(config, key), CLOSE_S)
        if why := self._run(self._hosts.anyone(), config.start_timeout_s + CLOSE_S):
            self.close()
            past = "; verify.judge.use_proxy=true goes through the environment's proxy" if proxies_of_environment() else ""
            raise ServerError(f"verify.judge.urls: no host answers /v1/models ({why}){'' if config.use_proxy else past}")

    def ask(self, question: str, gold: str, answer: str) -> "Future[Ruling]":
        """Whether the answer agrees with gold; never an exception, undecided where nobody could tell. From any thread."""
        future: Future[Ruling] = Future()
        self._loop.call_soon_threadsafe(self._begin, question, gold, answer, future)
        return future

    def give_up(self) -> None:
        """What is being asked is undecided. From any thread."""
        self._loop.call_soon_threadsafe(self._cancel_all)

    def take_counts(self) -> JudgeCounts:
        """The counts since they were last taken."""
        counts, self.counts = self.counts, JudgeCounts()
        return counts

    def close(self) -> None:
        """End the loop; what is being asked is undecided."""
        self._run(self._close(), CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()
        self._cache.close()

    def _run(self, work: Coroutine, timeout_s: float):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _close(self) -> None:
        tasks = [task for task, _ in self._asking.values()]
        self._cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hosts.close()

    def _cancel_all(self) -> None:
        for task, _ in self._asking.values():
            task.cancel()

    def _begin(self, question: str, gold: str, answer: str, future: Future) -> None:
        """On the loop: from the cache, together with the same question, or a task of its own."""
        key = JudgeCache.key(self._config.model, messages(question, gold, answer))
        if known := self._cache.get(key):
            future.set_result(_ruling(*known, known=True))
        elif key in self._asking:
            self._asking[key][1].append(future)
        else:
            task = self._loop.create_task(self._decide(question, gold, answer))
            self._asking[key] = (task, [future])
            task.add_done_callback(lambda done: self._answer_all(key, done))

    def _answer_all(self, key: str, task: asyncio.Task) -> None:
        _, futures = self._asking.pop(key)
        if task.cancelled():
            ruling = LATE
        elif error := task.exception():
            ruling = Ruling(None, f"judge: {type(error).__name__}")
        else:
            ruling = task.result()
        if ruling.right is not None:
            with suppress(OSError):  # a full disk costs the next run a question, not this one a verdict
                self._cache.put(key, ruling.right, ruling.reply_end)
        for place, future in enumerate(futures):
            future.set_result(Ruling(ruling.right, ruling.reason, ruling.reply_end, known=place > 0))

    async def _decide(self, question: str, gold: str, answer: str) -> Ruling:
        """Ask until there is a verdict, at most `attempts` times."""
        reason, reply, unclear = "", "", False
        for attempt in range(self._config.attempts):
            if attempt and not unclear:
                await asyncio.sleep(self._config.backoff_s * 2 ** (attempt - 1) * self._random.uniform(0.5, 1.5))
            self.counts.requests += 1
            try:
                reply = await self._hosts.ask(messages(question, gold, answer, again=unclear))
            except HostFailed as error:
                self.counts.failures += 1
                reason, unclear = f"judge: failed, {error}", False
                continue
            except (Refused, NoHost) as error:
                self.counts.failures += 1
                return Ruling(None, f"judge: refused, {error}" if isinstance(error, Refused) else "judge: no host")
            right = verdict_of(reply)
            if right is not None:
                return _ruling(right, reply[-REPLY_END_CHARS:])
            self.counts.unclear += 1
            reason, unclear = "judge: unclear", True
        return Ruling(None, reason, reply[-REPLY_END_CHARS:])


def _ruling(right: bool, reply_end: str, known: bool = False) -> Ruling:
    return Ruling(right, "judge: correct" if right else "judge: incorrect", reply_end, known)


async def _make_hosts(config: JudgeConfig, key: str | None) -> Hosts:
    return Hosts(config, key)
