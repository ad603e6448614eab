"""The file system that the run writes to: may we, how fast, and is there room for what the run will keep."""

import os
import shutil
import time
from math import prod
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor.findings import ERROR, OK, WARNING, Findings
from megatron_oreal.model.blueprint import hf_shapes
from megatron_oreal.sync.chain import copies_in

TRIAL_BYTES = 64 << 20
BLOCK = 4 << 20
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
OPTIMIZER_BYTES = 12
"""A parameter, in a checkpoint: float32 master weight and Adam's two moments."""


def check_room(findings: Findings, config: TrainConfig | SftConfig, model) -> None:
    """Whether what the run will keep finds room beside what it has written already.

    Args:
        model: its transformers config.
    """
    run_dir = Path(config.run_dir)
    checkpoint, export = sizes(config, model)
    checkpoints, exports = counts(config)
    there = sum(path.stat().st_size for path in run_dir.glob("checkpoints/**/*") if path.is_file())
    needed = max(checkpoint * checkpoints - there, 0) + export * exports
    free = shutil.disk_usage(run_dir).free
    kept = f"{checkpoints} checkpoints of {_gb(checkpoint)} and {exports} exports of {_gb(export)}, {_gb(there)} of them there"
    text = f"{_gb(free)} free, {_gb(needed)} needed: {kept}"
    if free < needed:
        advice = "make room, take another run_dir, or lower checkpoint.keep_last, keep_best or hf_keep_last"
        findings.add(ERROR, "room", text, advice)
    else:
        findings.add(OK, "room", text)


def check_copy(findings: Findings, config: TrainConfig | SftConfig, model) -> None:
    """Whether this host has room for its copy of the weights, where new ones come over disk. Arguments as of check_room."""
    rollout = config.rollout
    if not config.has_engines or rollout.sync != "disk" or rollout.placement == "external":
        return
    folder, needed = copies_in(rollout), sizes(config, model)[1]
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    advice = "set rollout.sync_copy to a folder of this host with room, or make room" if free < needed else ""
    text = f"{folder}: {_gb(free)} free, {_gb(needed)} needed for this host's copy of the weights"
    findings.add(ERROR if free < needed else OK, "weights' copy", text, advice)


def sizes(config: TrainConfig | SftConfig, model) -> tuple[int, int]:
    """Bytes of one checkpoint (each trained model: weights, master weights, Adam's moments), and of one Hugging Face export."""
    roles = ("policy", "token_rm") if isinstance(config, TrainConfig) and config.objective.token_rm else ("policy",)
    parameters = {role: sum(map(prod, hf_shapes(model, role).values())) for role in roles}
    weight = WEIGHT_BYTES[config.model.dtype]
    return sum(parameters.values()) * (weight + OPTIMIZER_BYTES), parameters["policy"] * weight


def counts(config: TrainConfig | SftConfig) -> tuple[int, int]:
    """The most checkpoints, and the most folders of weights, that lie there at one time; each with the one being written."""
    keeps = config.checkpoint
    written = config.steps // keeps.interval + 1  # and one where the run is asked to stop
    exported = config.steps // keeps.hf_interval if keeps.hf_interval else 0
    on_their_way = 1 if config.has_engines and config.rollout.sync == "disk" else 0
    return min(written, keeps.keep_last + keeps.keep_best + 1), 1 + on_their_way + min(exported, keeps.hf_keep_last + 1)


def check_speed(findings: Findings, folder: Path, slowest_mb_s: float) -> None:
    """Write a file into this folder and read it back; all nodes do at the same time, as they do with a checkpoint."""
    path = folder / f"trial-{os.getpid()}-{time.monotonic_ns()}"
    try:
        written, read = _write(path), _read(path)
    except OSError as error:
        findings.add(ERROR, "run_dir", f"{folder.parent}: {error}", "take a run_dir that every node may write to")
        return
    finally:
        path.unlink(missing_ok=True)
    slow = min(written, read) < slowest_mb_s
    findings.add(
        WARNING if slow else OK,
        "disk speed",
        f"{folder.parent} takes {written:.0f} MB/s with fsync and gives {read:.0f} MB/s" + (f", below {slowest_mb_s:g}" if slow else ""),
        "checkpoints will take long: checkpoint.timeout_s, or another file system" if slow else "",
    )


def _write(path: Path) -> float:
    block, started = os.urandom(BLOCK), time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(TRIAL_BYTES // BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return TRIAL_BYTES / 1e6 / (time.perf_counter() - started)


def _read(path: Path) -> float:
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(BLOCK):
            pass
    return TRIAL_BYTES / 1e6 / (time.perf_counter() - started)


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"
