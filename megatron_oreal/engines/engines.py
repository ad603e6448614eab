"""The engines of a run as rank 0 sees them: found, put aside when they are lost, and back in service with the next weights.

An engine of our own that is lost (it ended, hangs, or answers nonsense) is killed and started again at once, by the supervisor of its host.
It has the weights of the model folder then, so it is asked for samples only after the next sync. An external engine that is lost is
tried again at each sync.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from megatron_oreal.engines.control import ControlWriter
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.registry import RegistryEntry, read_registry, registry_folder
from megatron_oreal.engines.supervisor import Supervisor
from megatron_oreal.errors import ServerError
from megatron_oreal.rollout.config import RolloutConfig

POLL_S = 0.1
PROBE_S = 5.0
BUT_THE_CACHE = ("weights", "cuda_graph")
"""SGLang's names for what an engine can give up, less the cache of keys and values."""


class EnginesGone(ServerError):
    """No engine is left, and none comes back."""


class Engines:
    """Rank 0's view of all engines. Its methods may be called from any thread."""

    def __init__(self, config: RolloutConfig, run_dir: Path, external: Sequence[Endpoint] = ()):
        """`external`: those that somebody else started, and no others; our own are registered in `run_dir`."""
        self._config, self._lock = config, threading.Lock()
        self._external = {n: RegistryEntry(n, 0, endpoint) for n, endpoint in enumerate(external)}
        self._folder = None if external else registry_folder(run_dir)
        self._read: tuple[float, dict[int, RegistryEntry]] = (0.0, {})  # when, what
        self._stale = self._known()  # of an attempt at this run that was killed, where the supervisors of this one come later than we
        self._control = ControlWriter(self._folder) if self._folder else None
        self._lost: dict[Endpoint, str] = {}  # why, of those that were given up
        self._serving: list[Endpoint] = []
        self._asleep: list[Endpoint] = []
        self.lost = 0  # engines given up
        self.rejoined = 0  # engines put back into service after that

    def wait_ready(self) -> None:
        """Return when all answer; they are in service then.

        Raises:
            ServerError: one does not within rollout.ready_timeout_s, or ended; with the end of its log.
        """
        deadline = time.monotonic() + self._config.ready_timeout_s
        expected = len(self._external) or self._config.engines
        self._unpause_external()
        while True:
            known = self._known()
            for number, engine in known.items():
                if engine.failed and engine != self._stale.get(number):
                    raise ServerError(engine.failed)
            ready = [e.endpoint for e in known.values() if (e.ready or self._external) and e.endpoint.healthy(PROBE_S)]
            if len(ready) == expected:
                break
            if time.monotonic() > deadline:
                raise ServerError(self._not_ready(known, ready, expected))
            time.sleep(POLL_S)
        with self._lock:
            self._serving = ready

    def _unpause_external(self) -> None:
        """A run that was killed in the middle of a sync left them paused, and so unhealthy."""
        for engine in self._external.values():
            with suppress(ServerError):
                engine.endpoint.post("/continue_generation", timeout_s=PROBE_S)

    def _not_ready(self, known: dict[int, RegistryEntry], ready: list[Endpoint], expected: int) -> str:
        seconds = f"{self._config.ready_timeout_s:.0f} s"
        late = [e.endpoint for e in known.values() if e.endpoint not in ready]
        if self._external:
            return f"rollout.urls: {late[0].url} does not answer /health within {seconds}"
        named = ", ".join(f"{e.url}{e.where()}" for e in late) or f"only {len(known)} of {expected} engines were started"
        return f"SGLang did not answer within rollout.ready_timeout_s={seconds}: {named}"

    def _known(self) -> dict[int, RegistryEntry]:
        """Read at most every POLL_S: many ask, and the folder may lie on a slow file system."""
        if self._external:
            return self._external
        with self._lock:
            when, what = self._read
            if time.monotonic() - when > POLL_S:
                with suppress(OSError):  # being written, or a file system that is away for a moment: what was known still holds
                    what = read_registry(self._folder)
                self._read = (time.monotonic(), what)
            return what

    @property
    def restarts(self) -> int:
        """How often engines of our own were started again."""
        return sum(e.start for e in self._known().values())

    @property
    def known(self) -> list[Endpoint]:
        """All that were started or named, in service or not."""
        return [e.endpoint for e in self._known().values()]

    @property
    def copies(self) -> dict[int, str]:
        """Where hosts without ranks keep a copy of the weights for an engine, by its number."""
        return {number: engine.copy for number, engine in self._known().items() if engine.copy}

    @property
    def serving(self) -> list[Endpoint]:
        """Those that may be asked for samples."""
        with self._lock:
            return list(self._serving)

    def ended(self, endpoint: Endpoint) -> str:
        """How this engine ended, in words; empty while it lives, or where it is not ours."""
        return "" if any(e.endpoint == endpoint and not e.failed for e in self._known().values()) else "it ended"

    def give_up(self, endpoint: Endpoint, why: str) -> bool:
        """Take an engine out of service, and ask for its restart if it is ours; False where that was done before."""
        with self._lock:
            if endpoint in self._lost:
                return False
            self._serving = [e for e in self._serving if e != endpoint]
            self._lost[endpoint] = why
            self.lost += 1
        for engine in self._known().values():
            if engine.endpoint == endpoint and self._control:
                self._control.restart(engine.number, engine.start)
        return True

    def look(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        """Ask these engines, which may be paused, whether they work, and give up those that do not; those that were.

        First those whose HTTP server is silent too: one that only waits for them in a collective is well once they are killed.
        """
        seconds = self._config.lost_after_s
        silent = self._give_up_all_but(endpoints, lambda e: e.answers(seconds), f"silent for rollout.lost_after_s={seconds:.0f} s")
        others = [e for e in endpoints if e not in silent]
        return silent + self._give_up_all_but(others, self._is_well, f"it did not work for rollout.lost_after_s={seconds:.0f} s")

    def _give_up_all_but(self, endpoints: list[Endpoint], well: Callable[[Endpoint], bool], why: str) -> list[Endpoint]:
        with ThreadPoolExecutor(max(len(endpoints), 1)) as threads:
            are_well = list(threads.map(well, endpoints))
        return [e for e, yes in zip(endpoints, are_well, strict=True) if not yes and self.give_up(e, self.ended(e) or why)]

    def _is_well(self, endpoint: Endpoint) -> bool:
        deadline = time.monotonic() + self._config.lost_after_s
        while time.monotonic() < deadline and not self.ended(endpoint):
            if endpoint.works(deadline - time.monotonic()):
                return True
            time.sleep(POLL_S)
        return False

    def sleep(self) -> None:
        """Have the engines of this service give up the GPU's memory, weights included: they need new ones before they serve again.

        With rollout.keep_cache the cache stays where it is. One that is just starting again is stopped, and starts when the others wake:
        it would take memory that training needs.
        """
        known = self._known().values()
        ready = [e.endpoint for e in known if e.ready and e.endpoint not in self._lost]
        for engine in known:
            if engine.endpoint not in ready and self._control:
                self._control.restart(engine.number, engine.start)
                self._lost.setdefault(engine.endpoint, "it was just starting when training began")  # it may yet say that it is ready
        if self._control:
            self._control.hold()
        if self._config.keep_cache:  # they refuse to sleep while they work
            idle = self._all_that_can("/pause_generation", ready, {"mode": "retract"})
        else:
            idle = self._all_that_can(f"/flush_cache?timeout={self._config.sync_timeout_s:.0f}", ready)
        self._asleep = self._all_that_can("/release_memory_occupation", idle, self._given_up)

    def wake(self) -> None:
        """The memory is theirs again. Nothing happens where they are awake."""
        asleep, self._asleep = self._asleep, []
        self._all_that_can("/resume_memory_occupation", [e for e in asleep if e not in self._lost], self._given_up)
        if self._control:
            self._control.go_on()

    @property
    def _given_up(self) -> dict | None:
        """What of an engine's memory sleeps; None: all."""
        return {"tags": list(BUT_THE_CACHE)} if self._config.keep_cache else None

    def _all_that_can(self, path: str, endpoints: list[Endpoint], body: dict | None = None) -> list[Endpoint]:
        """Make a call to these engines, all at once; who cannot answer it is given up."""

        def can(endpoint: Endpoint) -> bool:
            try:
                endpoint.post(path, body, timeout_s=self._config.sync_timeout_s)
            except ServerError as error:
                self.give_up(endpoint, str(error))
                return False
            return True

        with ThreadPoolExecutor(max(len(endpoints), 1)) as threads:
            able = list(threads.map(can, endpoints))
        return [endpoint for endpoint, yes in zip(endpoints, able, strict=True) if yes]

    def for_sync(self) -> list[Endpoint]:
        """Those that can take new weights: in service, or lost and back. Waits for one where none is.

        Raises:
            EnginesGone: none answers within rollout.ready_timeout_s, or none is to come back.
        """
        deadline = time.monotonic() + self._config.ready_timeout_s
        while True:
            known, serving = list(self._known().values()), self.serving
            able = [e.endpoint for e in known if e.endpoint in serving or self._is_back(e)]
            if able:
                return able
            if time.monotonic() > deadline or all(e.failed for e in known):
                raise EnginesGone(self._why_none())
            time.sleep(POLL_S)

    def _is_back(self, engine: RegistryEntry) -> bool:
        if self._external:
            return engine.endpoint.works(PROBE_S)
        return engine.ready and not engine.failed and engine.endpoint not in self._lost

    def put_in_service(self, endpoints: list[Endpoint]) -> None:
        """These hold the newest weights."""
        with self._lock:
            self.rejoined += sum(e not in self._serving for e in endpoints) if self._lost or self._serving else 0
            self._serving = list(endpoints)
            for endpoint in endpoints:
                self._lost.pop(endpoint, None)

    def _why_none(self) -> str:
        with self._lock:
            reasons = "; ".join(f"{endpoint.url}: {why}{endpoint.where()}" for endpoint, why in self._lost.items())
        return f"rollout: no engine is left ({reasons}); the run can go on with resume=auto once there is one"

    def close(self) -> None:
        """Tell the supervisors that the run is over."""
        if self._control:
            self._control.over()


def external_engines(config: RolloutConfig) -> list[Endpoint]:
    """Those of rollout.urls. Raises ValueError where the key cannot be read."""
    try:
        key = Path(config.admin_key_file).read_text().strip() if config.admin_key_file else None
    except OSError as error:
        raise ValueError(f"rollout.admin_key_file: {error}") from error
    return [Endpoint(url.rstrip("/"), key) for url in config.urls]


@contextmanager
def open_engines(config: RolloutConfig, model_path: str, dtype: str, run_dir: Path, asked: int | None = None) -> Iterator[Engines]:
    """The engines of whoever is alone on one host: started or found here, stopped on the way out. `asked`: see Server."""
    with supervised_here(config, model_path, dtype, run_dir, range(config.engines), asked):
        engines = Engines(config, run_dir, external_engines(config))
        try:
            yield engines
        finally:
            engines.close()


@contextmanager
def supervised_here(config: RolloutConfig, model_path: str, dtype: str, run_dir: Path, numbers: range, asked: int | None) -> Iterator[None]:
    """Where engines are colocated, those with these numbers run on this host."""
    if config.placement != "colocated" or not numbers:
        yield
        return
    supervisor = Supervisor(config, model_path, dtype, run_dir, numbers, asked)
    supervisor.start()
    try:
        yield
    finally:
        supervisor.stop()
