"""Where processes meet that share no group yet."""

import socket
from datetime import timedelta

import torch.distributed as dist


def listening_store(address: str, timeout_s: float) -> dist.TCPStore:
    """The store of a new group, listening at this address alone; by itself it would listen at every address of this host."""
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port = listener.getsockname()[1]
    return dist.TCPStore(
        address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
        master_listen_fd=listener.detach(),  # the store's to close
    )
