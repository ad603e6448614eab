"""What rank 0 and the keepers know of each other through the run's folder."""

import time

import msgspec
import pytest

from megatron_oreal.engines import control
from megatron_oreal.engines.control import Notices, Told, write_privately
from megatron_oreal.engines.engines import Engines
from megatron_oreal.engines.server import Endpoint
from megatron_oreal.engines.supervisor import Registered, folder_of
from megatron_oreal.errors import ServerError
from tests.settings import rollout_config


def test_a_run_that_ends_or_falls_silent_is_over_an_earlier_one_is_not_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "PULSE_S", 0.1)
    earlier = Notices(tmp_path)
    earlier.over()
    told = Told(tmp_path, silent_s=0.5)
    assert not told.over
    run = Notices(tmp_path)
    for _ in range(8):  # longer than silent_s
        time.sleep(0.1)
        assert not told.over
    run.over()
    assert told.over
    told, killed = Told(tmp_path, silent_s=0.5), Notices(tmp_path)
    assert not told.over
    killed._done.set()  # its process is gone
    time.sleep(0.2)
    assert not told.over
    time.sleep(0.6)
    assert told.over


@pytest.fixture
def registry(tmp_path):
    """register(number, **what is known): as a keeper does it."""
    folder = folder_of(tmp_path)
    folder.mkdir()

    def register(number: int, **known) -> Registered:
        entry = Registered(number, endpoint=Endpoint(f"http://127.0.0.1:{9 + number}"), **{"start": 0, **known})
        write_privately(folder / f"{number}.json", msgspec.json.encode(entry))
        return entry

    return register


def test_an_engine_that_is_back_but_not_yet_in_service_can_be_given_up(registry, tmp_path):
    """It may hang in the very sync that was to put it in service."""
    engines = Engines(rollout_config(engines=2), tmp_path)
    well, back = registry(0, ready=True), registry(1, ready=True, start=1)
    time.sleep(0.2)
    engines.put_in_service([well.endpoint])
    assert engines.for_sync() == [well.endpoint, back.endpoint]
    assert engines.give_up(back.endpoint, "it hangs") and not engines.give_up(back.endpoint, "it hangs")
    assert engines.for_sync() == [well.endpoint]
    assert Told(folder_of(tmp_path)).restart(1, 1) and not Told(folder_of(tmp_path)).restart(0, 0)
    engines.close()


def test_what_a_killed_run_left_registered_does_not_count(registry, tmp_path):
    registry(0, failed="it did not come up yesterday")
    engines = Engines(rollout_config(ready_timeout_s=1), tmp_path)
    with pytest.raises(ServerError, match=r"did not answer within rollout\.ready_timeout_s=1 s"):
        engines.wait_ready()
    registry(0, failed="it does not come up today")
    with pytest.raises(ServerError, match="it does not come up today"):
        engines.wait_ready()
    engines.close()
