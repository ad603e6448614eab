"""What a node grants a process beside memory: open files, shared memory, and folders of its own for kernels compiled at the start."""

import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor.findings import OK, WARNING, Findings
from megatron_oreal.sync.hand_over import BUFFERS

FILES_OF_A_RANK = 512
"""Libraries, logs, pipes to workers, connections among ranks."""
SHARED_MEMORY = Path("/dev/shm")
SHARED_BY_GPUS = 1 << 30
"""Bytes that NCCL and the ranks of an engine exchange through, with several GPUs a node; a container without further options has 64 MiB."""
BETWEEN_HOSTS = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "panfs", "wekafs", "pvfs2", "glusterfs", "afs"}
JIT_CACHES = {
    "TRITON_CACHE_DIR": "~/.triton",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp",
    "CUDA_CACHE_PATH": "~/.nv",
    "FLASHINFER_WORKSPACE_BASE": "~/.cache/flashinfer",
    "TVM_FFI_CACHE_DIR": "~/.cache/tvm-ffi",
    "SGLANG_CACHE_DIR": "~/.cache/sglang",
}
"""Variable -> where the library writes without it. launch/slurm/job.sh sets them all."""


def check_limits(findings: Findings, config: TrainConfig | SftConfig) -> None:
    """As the module says; none of it is an error, for each depends on how much of it a run comes to use."""
    _check_open_files(findings, config)
    _check_shared_memory(findings, config)
    _check_jit_caches(findings, os.environ)


def _check_open_files(findings: Findings, config: TrainConfig | SftConfig) -> None:
    granted = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = FILES_OF_A_RANK + config.rollout.concurrency * max(config.rollout.engines, len(config.rollout.urls))
    if granted != resource.RLIM_INFINITY and granted < needed:
        text = f"a process may open {granted}, and rank 0 may come to {needed} (rollout.concurrency requests an engine)"
        findings.add(
            WARNING, "open files", text, "raise the hard limit (ulimit -Hn, limits.conf, LimitNOFILE=), or lower rollout.concurrency"
        )
    else:
        findings.add(OK, "open files", f"{needed} of {'any number' if granted == resource.RLIM_INFINITY else granted} are needed at most")


def _check_shared_memory(findings: Findings, config: TrainConfig | SftConfig) -> None:
    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() > 1
    if on_gpus:
        needed, by = SHARED_BY_GPUS, "NCCL and engines of several GPUs"
    elif config.rollout.sync == "tensor" and not torch.cuda.is_available():
        rollout = config.rollout
        needed = BUFFERS * rollout.engines * rollout.tp * rollout.sync_bucket_mb << 20
        by = f"rollout.sync=tensor without a GPU ({BUFFERS} buckets, or twice the largest weight, for each rank that hands over)"
    else:
        return
    has = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    text = f"{SHARED_MEMORY} has {has / 2**20:.0f} MiB free, {needed / 2**20:.0f} are wanted by {by}"
    advice = "a container takes --shm-size=8g or --ipc=host" if has < needed else ""
    findings.add(WARNING if has < needed else OK, "shared memory", text, advice)


def _check_jit_caches(findings: Findings, environment: Mapping[str, str]) -> None:
    places = {name: Path(environment.get(name, default)).expanduser() for name, default in JIT_CACHES.items()}
    kinds = {name: file_system_of(path) for name, path in places.items()}
    shared = [name for name, kind in kinds.items() if kind in BETWEEN_HOSTS]
    if shared:
        text = f"{places[shared[0]]} is on {kinds[shared[0]]}: nodes that compile at one time hinder each other there"
        advice = f"set {', '.join(shared)} to a folder of the node's own; the jobs of launch/slurm do (JIT_CACHE in site.sh)"
        findings.add(WARNING, "JIT caches", text, advice)
    else:
        findings.add(OK, "JIT caches", "compiled kernels are kept on this node's own disks")


def file_system_of(path: Path) -> str:
    """Kind of the file system that `path` lies on, or will: ext4, nfs4, ..."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    there = path.absolute()
    return next((mounts[str(folder)] for folder in (there, *there.parents) if str(folder) in mounts), "")
