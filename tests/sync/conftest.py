"""The session's server, given back as it was."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import WeightSender
from tests.settings import rollout_config


@pytest.fixture
def restored(server, served_model, tmp_path):
    """Whatever a test does to the session's server, the next one finds the model that it started with."""
    yield
    folders = tmp_path / "sync", Path(served_model)
    turns, device = TicketLock(dist.HashStore()), torch.device("cpu")
    sync = WeightSender([server.endpoint], rollout_config(), "restore", *folders, device, turns, kv_heads=2)
    source = HFFolder(served_model)
    sync.pause()
    sync.send(((name, source[name][:]) for name in source), 0)
    sync.commit(0)
    sync.resume(0)
    sync.compare(sync.checksums())
    sync.disconnect()
