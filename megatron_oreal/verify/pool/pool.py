"""The rule check beside generation: worker processes that survive any answer."""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

from megatron_oreal.trajectory import Verdict
from megatron_oreal.verify.config import VerifyConfig
from megatron_oreal.verify.pool.process import LOST, START_ATTEMPTS, START_S, WorkerProcess
from megatron_oreal.verify.rules.equivalence import MAX_CHARS

CACHE_SIZE = 20_000
T = TypeVar("T")


class Pool:
    """Answers checked by rule in worker processes."""

    def __init__(self, config: VerifyConfig):
        self._config = config
        self._workers = [WorkerProcess(config) for _ in range(config.workers)]
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()
        for one in self._workers:
            self._idle.put(one)
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="verify")
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._lock = Lock()

    def check(self, answer: str, gold: str) -> "Future[Verdict]":
        """What the rules say of an extracted answer: right, wrong or undecided. Each case has a deadline of its own."""
        answer = answer[: MAX_CHARS * 10 + 1]
        known = self.known(answer, gold)
        return self._threads.submit(self._ask, answer, gold) if known is None else done(known)

    def known(self, answer: str, gold: str) -> Verdict | None:
        """The verdict, where there was one before."""
        with self._lock:
            return self._cache.get((answer, gold))

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers now alive."""
        return [one.pid for one in self._workers]

    def close(self) -> None:
        """End the workers; cases not yet looked at are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for one in self._workers:
            one.close()
        self._threads.shutdown(wait=True)

    def _ask(self, answer: str, gold: str) -> Verdict:
        known = self.known(answer, gold)
        if known is not None:
            return known
        one = self._idle.get(timeout=self._config.timeout_s + START_ATTEMPTS * START_S)
        try:
            verdict = one.ask(answer, gold)
        finally:
            self._idle.put(one)
        if verdict.reason not in LOST:
            self._remember((answer, gold), verdict)
        return verdict

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        with self._lock:
            self._cache[key] = verdict
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)


def done(result: T) -> "Future[T]":
    """A future that need not be waited for."""
    future: Future[T] = Future()
    future.set_result(result)
    return future
