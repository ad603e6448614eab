"""A folder's weights into engines, in the order in which a step of training does it."""

import torch

from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.sync.carry import WeightSender


def hand_over(
    sender: WeightSender, folder: str, version: int, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> None:
    """All tensors of the folder, proven by checksum before the engines go on; `dtype`: None: as they stand there."""
    source = HFFolder(folder)
    sender.pause()
    sender.send(((name, source[name][:].to(device, dtype)) for name in source), version)
    sender.commit(version)
    compared, held = sender.compare(sender.checksums())
    assert compared == held
    sender.resume(version)
