"""GPUs as their makers state them. What of it is reached is for the planner to ask of tables, and for a run to measure."""

import re
from dataclasses import dataclass

GIB = 2**30
CPU = "cpu"
"""For the planner: a machine without any of these."""


@dataclass(frozen=True)
class Device:
    """One GPU and its share of its host's network."""

    memory_gib: float  # as torch.cuda.get_device_properties counts it
    bf16_flops: float  # dense, per second
    memory_bytes_s: float
    nvlink_bytes_s: float  # in one direction
    network_bytes_s: float  # between hosts, in one direction, a GPU
    host_bytes_s: float  # to and from its host's pinned memory, in one direction
    matmul_share: float = 0.7  # of bf16_flops, and
    memory_share: float = 0.75  # of memory_bytes_s: what is reached, for the planner where it has no tables. Fitted to those of an H100

    @property
    def memory(self) -> float:
        """Bytes."""
        return self.memory_gib * GIB


DEVICES = {
    # Host memory: 0.8 of PCIe x16 (gen 4: 32 GB/s, gen 5: 64), assumed; GB200 has NVLink-C2C, of which no more is counted.
    # NVIDIA A100 80GB data sheet, SXM: 312 TFLOP/s, 2,039 GB/s, NVLink 600 GB/s both ways; HGX hosts have a 200 Gb/s HCA a GPU.
    "a100-80g": Device(79.2, 312e12, 2.039e12, 300e9, 25e9, 25e9),
    # NVIDIA H100 data sheet, SXM: 989 TFLOP/s without sparsity, 3.35 TB/s, NVLink 900 GB/s both ways; DGX H100: 400 Gb/s a GPU.
    "h100-80g": Device(79.1, 989e12, 3.35e12, 450e9, 50e9, 50e9),
    # NVIDIA H200 data sheet: as H100, with 141 GB (10^9) at 4.8 TB/s, of which torch sees some 139.8 GiB with ECC.
    "h200": Device(139.8, 989e12, 4.8e12, 450e9, 50e9, 50e9),
    # NVIDIA GB200 NVL72 and DGX B200 data sheets, a GPU: 2,500 and 2,250 dense TFLOP/s, 8 TB/s, NVLink 1.8 TB/s both ways.
    "gb200": Device(184.0, 2500e12, 8e12, 900e9, 50e9, 50e9),
    "b200": Device(178.4, 2250e12, 8e12, 900e9, 50e9, 50e9),
    # H20: 148 TFLOP/s, 96 GB at 4.0 TB/s. So few arithmetic units are easily kept busy, and cannot read as fast as the memory is: shares
    # fitted to verl's training on H20 (ISEEKYAN/verl_megatron_practice) and to Qwen3's decoding by SGLang (Qwen's speed benchmark).
    "h20": Device(95.1, 148e12, 4.0e12, 450e9, 50e9, 50e9, matmul_share=0.95, memory_share=0.36),
    # A100 40GB SXM, and H100 PCIe with NVLink bridges: NVIDIA's data sheets.
    "a100-40g": Device(39.4, 312e12, 1.555e12, 300e9, 25e9, 25e9),
    "h100-pcie": Device(79.1, 756e12, 2.0e12, 300e9, 50e9, 50e9),
}


def known_as(name: str) -> str | None:
    """Which of DEVICES it is that CUDA calls so ("NVIDIA H100 80GB HBM3" is h100-80g); None for one that is not in the table.

    PCIe and NVL cards of a chip are slower than its SXM modules: they are another row, or none.
    """
    words = re.split("[ -]", name.lower())
    for key in DEVICES:
        chip, _, kind = key.partition("-")
        apart = ("pcie" in words) != (kind == "pcie") or "nvl" in words
        if chip in words and not apart and any(word.startswith(kind) for word in words):
            return key
    return None


def bf16_peak(name: str) -> float | None:
    """FLOPs a second of the GPU that CUDA calls so; None for one that is not in the table."""
    key = known_as(name)
    return DEVICES[key].bf16_flops if key else None
