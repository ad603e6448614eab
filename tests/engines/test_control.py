"""What rank 0 and the supervisors know of each other through the run's folder."""

import time

import msgspec
import pytest

from megatron_oreal.engines import control as control_files
from megatron_oreal.engines.control import ControlReader, ControlWriter
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.engines.registry import RegistryEntry, registry_folder, write_privately
from megatron_oreal.errors import ServerError
from tests.settings import rollout_config


def test_a_run_that_ends_or_falls_silent_is_over_an_earlier_one_is_not_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(control_files, "PULSE_S", 0.1)
    earlier = ControlWriter(tmp_path)
    earlier.over()
    control = ControlReader(tmp_path, silent_s=0.5)
    assert not control.over
    run = ControlWriter(tmp_path)
    for _ in range(8):  # longer than silent_s
        time.sleep(0.1)
        assert not control.over
    run.over()
    assert control.over
    control, killed = ControlReader(tmp_path, silent_s=0.5), ControlWriter(tmp_path)
    assert not control.over
    killed._done.set()  # its process is gone
    time.sleep(0.2)
    assert not control.over
    time.sleep(0.6)
    assert control.over


@pytest.fixture
def registry(tmp_path):
    """register(number, **what is known): as a supervisor does it."""
    folder = registry_folder(tmp_path)
    folder.mkdir()

    def register(number: int, **known) -> RegistryEntry:
        entry = RegistryEntry(number, endpoint=Endpoint(f"http://127.0.0.1:{9 + number}"), **{"start": 0, **known})
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
    assert ControlReader(registry_folder(tmp_path)).restart(1, 1) and not ControlReader(registry_folder(tmp_path)).restart(0, 0)
    engines.close()


def test_one_that_was_stopped_as_it_started_is_not_asked_when_it_last_said_that_it_was_ready(registry, tmp_path):
    """Its supervisor may have seen that it is ready just before it read that it is to be stopped."""
    engines = Engines(rollout_config(engines=1), tmp_path)
    starting = registry(0, start=1)
    time.sleep(0.2)
    engines.sleep()
    assert ControlReader(registry_folder(tmp_path)).restart(0, 1)
    registry(0, start=1, ready=True)
    again = registry(1, ready=True)
    time.sleep(0.2)
    engines.wake()
    assert starting.endpoint in engines.known and engines.for_sync() == [again.endpoint]
    assert engines.lost == 0
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
