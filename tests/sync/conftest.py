"""The session's server, given back as it was."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import Origin, WeightSender
from tests.settings import rollout_config


@pytest.fixture
def restored(server, served_model, tmp_path):
    """Whatever a test does to the session's server, the next one finds the model that it started with."""
    yield
    folders = tmp_path / "sync", Path(served_model)
    origin = Origin("restore", torch.device("cpu"), TicketLock(dist.HashStore()), *folders, kv_heads=2)
    sync = WeightSender([server.endpoint], rollout_config(), origin)
    source = HFFolder(served_model)
    sync.pause()
    sync.send(((name, source[name][:]) for name in source), 0)
    sync.commit(0)
    sync.resume(0)
    sync.compare(sync.checksums())
    sync.disconnect()
