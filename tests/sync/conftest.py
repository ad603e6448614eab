"""The session's server, given back as it was."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import Origin, WeightSender
from tests.settings import rollout_config
from tests.sync.hand_over import hand_over


@pytest.fixture
def restored(server, served_model, tmp_path):
    """Whatever a test does to the session's server, the next one finds the model that it started with."""
    yield
    folders = tmp_path / "sync", Path(served_model)
    origin = Origin("restore", torch.device("cpu"), TicketLock(dist.HashStore()), *folders, kv_heads=2)
    sync = WeightSender([server.endpoint], rollout_config(), origin)
    hand_over(sync, served_model, 0)
    sync.disconnect()
