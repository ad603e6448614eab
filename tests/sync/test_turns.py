"""Engines and training take turns in memory; and engines of before SGLang 0.5.21, which know no begin and end of an update.

The stand-ins say what time it was when they had answered; tests/sync/test_sync.py has a real engine sleep, wake and serve new weights.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from megatron_oreal.config import TrainConfig
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.engines.registry import RegistryEntry, register, registry_folder
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.platform import Platform
from megatron_oreal.sync.carry import tp_size
from megatron_oreal.sync.deliver import Updates
from megatron_oreal.sync.publisher import Publisher
from megatron_oreal.sync.room import SETTLED_S, Room
from tests.settings import rollout_config, tiny_run

TAKES_S = 0.5


class Engine(ThreadingHTTPServer):
    """Knows the paths that it is given, takes its time over each call, and notes when it had answered it."""

    def __init__(self, *unknown: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.unknown, self.answered, self.info = unknown, [], {}
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(TAKES_S)
        path = self.path.partition("?")[0]
        self.server.answered.append((path, time.time()))
        self.send_response(404 if path in self.server.unknown else 200)
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(self.server.info).encode())

    def log_message(self, *_):
        pass


@contextmanager
def serving(*engines: Engine) -> Iterator[list[Endpoint]]:
    for engine in engines:
        Thread(target=engine.serve_forever, daemon=True).start()
    yield [engine.endpoint for engine in engines]
    for engine in engines:
        engine.shutdown()


def ours(run_dir: Path, endpoints: Sequence[Endpoint]) -> Engines:
    """As if this run had started them."""
    registry_folder(run_dir).mkdir(parents=True)
    for number, endpoint in enumerate(endpoints):
        register(registry_folder(run_dir), RegistryEntry(number, 0, endpoint, ready=True))
    engines = Engines(rollout_config(placement="colocated", engines=len(endpoints)), run_dir)
    engines.put_in_service(list(endpoints))
    return engines


def test_all_engines_sleep_and_wake_at_once(tmp_path):
    engines = [Engine() for _ in range(12)]
    with serving(*engines) as endpoints:
        seen = ours(tmp_path, endpoints)
        started = time.monotonic()
        seen.sleep()
        seen.wake()
        assert time.monotonic() - started < 12 * TAKES_S  # three calls to each, one after the other: 36
    for engine in engines:
        assert [path for path, _ in engine.answered] == ["/flush_cache", "/release_memory_occupation", "/resume_memory_occupation"]


def test_an_engine_says_itself_whether_it_has_updates():
    old, new = Engine("/begin_weight_update", "/end_weight_update"), Engine()
    with serving(old, new) as endpoints:
        updates = Updates(endpoints, 10)
        for _ in range(2):
            updates.begin()
            updates.end()
    assert [path for path, _ in new.answered] == ["/begin_weight_update", "/end_weight_update"] * 2
    assert [path for path, _ in old.answered] == ["/begin_weight_update"]  # asked once


def test_an_engine_that_could_not_load_new_weights_is_refused():
    engine = Engine()
    with serving(engine) as [endpoint]:
        engine.info = {"tp_size": 4, "quantization": None}
        assert tp_size(endpoint, 10) == 4
        for key, value in (("quantization", "fp8"), ("pp_size", 2)):
            engine.info = {"tp_size": 4, key: value}
            with pytest.raises(ValueError, match=str(value)):
                tp_size(endpoint, 10)


class Gpu:
    """Of which other processes hold what `held` says at each time."""

    def __init__(self, *held: tuple[float, int]):
        self.time, self._held = 0.0, held

    def memory_of_others(self) -> int:
        return [gib << 30 for since, gib in self._held if since <= self.time][-1]

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.mark.parametrize(
    ("then", "waits"),
    [
        ([(10, 40), (10.3, 12), (10.9, 4)], 0.9),  # another rank of the engine frees its memory in two parts, after the first has answered
        ([(10, 40), (10.3, 6)], 0.3 + SETTLED_S),  # two GiB more than when they slept before, for good
        ([(10, 4)], 0),
    ],
)
def test_a_rank_waits_until_its_own_gpu_is_free(then, waits):
    gpu = Gpu((0, 4), (5, 44), *then)
    room = Room(gpu, now=lambda: gpu.time, sleep=gpu.sleep)
    room.note_asleep()
    gpu.time = 6
    room.note_asleep()  # an attempt that is made again: they are awake
    gpu.time = 10
    room.wait()
    assert gpu.time - 10 == pytest.approx(waits, abs=0.02)


def make_room(run: TrainConfig, endpoints: list[Endpoint]) -> float:
    """When this rank would begin to train."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        engines = ours(Path(run.run_dir), endpoints) if ranks.conducts else None
        assert Publisher(run, learner.models, ranks, engines, memory_is_shared=True).make_room()
        return time.time()


def test_no_rank_trains_before_every_engine_has_given_up_its_memory(ranks, tiny_model, tmp_path):
    engines = [Engine() for _ in range(3)]
    with serving(*engines) as endpoints:
        begins = ranks(2, make_room, tiny_run(tiny_model(), {"dp": 2}, run_dir=str(tmp_path)), endpoints)
    asleep = [when for engine in engines for path, when in engine.answered if path == "/release_memory_occupation"]
    assert len(asleep) == 3 and max(asleep) <= min(begins)


def wake(run: TrainConfig, endpoints: list[Endpoint]) -> float:
    """When this rank had given back what its allocator kept of training."""
    given_back, give_back = [], Platform.release_cached_memory

    def noted(platform: Platform) -> None:
        give_back(platform)
        given_back.append(time.time())

    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        engines = ours(Path(run.run_dir), endpoints) if ranks.conducts else None
        publisher = Publisher(run, learner.models, ranks, engines, memory_is_shared=True)
        publisher.make_room()
        Platform.release_cached_memory = noted
        assert publisher._agree() == endpoints
        return given_back[0]


def test_no_engine_wakes_before_every_rank_has_given_back_what_it_kept_of_training(ranks, tiny_model, tmp_path):
    engines = [Engine() for _ in range(3)]
    with serving(*engines) as endpoints:
        given_back = ranks(2, wake, tiny_run(tiny_model(), {"dp": 2}, run_dir=str(tmp_path)), endpoints)
    awake = [when for engine in engines for path, when in engine.answered if path == "/resume_memory_occupation"]
    assert len(awake) == 3 and max(given_back) <= min(awake) - TAKES_S


def test_on_a_cpu_turns_are_taken_where_that_is_asked_for():
    shipped = rollout_config(placement="colocated")
    assert shipped.releases_memory() and not shipped.releases_memory(on_cpu=True)
    assert rollout_config(placement="colocated", release_memory=True).releases_memory(on_cpu=True)
