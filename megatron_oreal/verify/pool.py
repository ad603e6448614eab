"""Verification beside generation: worker processes that survive any answer, and groups of verdicts by question."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from megatron_oreal.trajectory import Group, Trajectory, Verdict
from megatron_oreal.verify.answer import final_answer
from megatron_oreal.verify.channel import receive, send
from megatron_oreal.verify.equivalence import MAX_CHARS

WORKER = "megatron_oreal.verify.worker"
START_S = 60.0
"""Deadline for a worker's start; measured 0.2 s on an idle core."""
START_ATTEMPTS = 3
CACHE_SIZE = 20_000
LEAST_MEMORY_MB = 128


@dataclass(frozen=True)
class VerifyConfig:
    """How answers are checked: `workers` processes, each case at most `timeout_s` seconds and `memory_mb` MiB of address space."""

    workers: int = 2
    timeout_s: float = 3.0
    memory_mb: int = 1024

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"verify.workers is {self.workers}; at least 1 is needed")
        if not 0 < self.timeout_s <= 600:
            raise ValueError(f"verify.timeout_s is {self.timeout_s}; seconds in (0, 600] are needed")
        if self.memory_mb < LEAST_MEMORY_MB:
            raise ValueError(f"verify.memory_mb is {self.memory_mb}; at least {LEAST_MEMORY_MB} are needed to start a worker")


class Verifier:
    """Checks trajectories in worker processes. Use as a context manager, or call `close`."""

    def __init__(self, config: VerifyConfig):
        self._config = config
        self._workers = [_Worker(config) for _ in range(config.workers)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for one in self._workers:
            self._idle.put(one)
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="verify")
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._lock = Lock()

    def verify(
        self,
        trajectories: Iterable[Trajectory],
        samples: int,
        on_group: Callable[[Group], None] | None = None,
        cut: Callable[[], Collection[str]] = tuple,
    ) -> list[Group]:
        """Verdicts of trajectories as they arrive, grouped by prompt in the order of first arrival.

        Each is given to the workers at once, so that verification overlaps with generation. An incomplete
        trajectory is wrong without being asked about. `on_group` hears of each group when its last verdict is there, in
        whichever thread brings it. `cut` says at the end of which prompts not all samples came: they are left out.

        Raises:
            ValueError: another prompt did not get exactly the samples 0 .. samples-1; names it.
        """
        arrived: dict[str, dict[int, tuple[Trajectory, Future]]] = {}
        for trajectory in trajectories:
            of_prompt = arrived.setdefault(trajectory.prompt.id, {})
            if trajectory.index in of_prompt:
                raise ValueError(f"prompt {trajectory.prompt.id!r}: sample {trajectory.index} came twice")
            of_prompt[trajectory.index] = (trajectory, self._submit(trajectory))
            if on_group and len(of_prompt) == samples:
                _when_judged(of_prompt, samples, on_group)
        for prompt_id in cut():
            arrived.pop(prompt_id, None)
        for prompt_id, of_prompt in arrived.items():
            if sorted(of_prompt) != list(range(samples)):
                raise ValueError(f"prompt {prompt_id!r}: samples {_listed(of_prompt)} came, 0 to {samples - 1} were expected")
        return [_group(of_prompt, samples) for of_prompt in arrived.values()]

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

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _submit(self, trajectory: Trajectory) -> Future:
        if not trajectory.complete:
            return _done(Verdict(False, "incomplete"))
        answer, gold = final_answer(trajectory.text), trajectory.prompt.gold_answer
        if answer is None:
            return _done(Verdict(False, "no answer"))
        answer = answer[: MAX_CHARS * 10 + 1]
        known = self._known((answer, gold))
        return self._threads.submit(self._ask, answer, gold) if known is None else _done(known)

    def _ask(self, answer: str, gold: str) -> Verdict:
        known = self._known((answer, gold))
        if known is not None:
            return known
        one = self._idle.get(timeout=self._config.timeout_s + START_ATTEMPTS * START_S)
        try:
            verdict = one.ask(answer, gold)
        finally:
            self._idle.put(one)
        if verdict.reason not in _LOST:
            self._remember((answer, gold), verdict)
        return verdict

    def _known(self, key: tuple[str, str]) -> Verdict | None:
        with self._lock:
            return self._cache.get(key)

    def _remember(self, key: tuple[str, str], verdict: Verdict) -> None:
        with self._lock:
            self._cache[key] = verdict
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)


_LOST = ("timeout", "crash", "memory")


def _done(verdict: Verdict) -> Future:
    future: Future = Future()
    future.set_result(verdict)
    return future


def _group(of_prompt: dict[int, tuple[Trajectory, Future]], samples: int) -> Group:
    trajectories = [of_prompt[index][0] for index in range(samples)]
    verdicts = [of_prompt[index][1].result() for index in range(samples)]  # each ask has its own deadline
    return Group(trajectories[0].prompt, trajectories, verdicts)


def _when_judged(of_prompt: dict[int, tuple[Trajectory, Future]], samples: int, tell: Callable[[Group], None]) -> None:
    left, lock = [samples], Lock()

    def one_more(_: Future) -> None:
        with lock:
            left[0] -= 1
            complete = left[0] == 0
        if complete:
            tell(_group(of_prompt, samples))

    for _, verdict in list(of_prompt.values()):
        verdict.add_done_callback(one_more)


def _listed(of_prompt: dict) -> str:
    return ", ".join(map(str, sorted(of_prompt)[:20])) or "none"


class _Worker:
    """A worker process; killed and started afresh where it passes its deadline or dies."""

    def __init__(self, config: VerifyConfig):
        self._config = config
        self._lock = Lock()  # start against close
        self._closed = False
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, answer: str, gold: str) -> Verdict:
        """The verdict of the worker; undecided with reason timeout, memory or crash where it did not live to give one."""
        self._wait_until_ready()
        try:
            self._channel.settimeout(self._config.timeout_s)
            send(self._channel, {"answer": answer, "gold": gold})
            return Verdict(**receive(self._channel))
        except TimeoutError:
            reason = "timeout"
        except (EOFError, OSError):
            reason = "crash"
        self._restart()
        return Verdict(False, reason, decided=False)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kill()

    def _wait_until_ready(self) -> None:
        for _ in range(START_ATTEMPTS):
            if self._ready:
                return
            try:
                self._channel.settimeout(START_S)
                self._ready = receive(self._channel)["ready"]
            except (EOFError, OSError):
                self._restart()
        if not self._ready:
            raise RuntimeError(f"a verification worker did not start in {START_ATTEMPTS} attempts; try `{sys.executable} -m {WORKER}`")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", WORKER, str(theirs.fileno()), str(self._config.memory_mb), str(self._config.timeout_s)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # killed as a group
                env={**os.environ, "PYTHONPATH": _package_path()},
            )
        self._channel, self._ready = ours, False

    def _restart(self) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the verifier is closed")
            self._kill()
            self._start()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        self._channel.close()


def _package_path() -> str:
    """The folder of this package first: a worker must find it from any working directory."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
