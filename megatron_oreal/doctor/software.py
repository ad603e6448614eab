"""Versions that belong together, by what the installed package says it needs, and the GPUs of this node."""

import importlib.metadata
import os
import platform
import shutil

import torch
from packaging.requirements import Requirement

from megatron_oreal.doctor.findings import ERROR, LEFT_OUT, OK, WARNING, Findings

PACKAGE = "megatron-oreal"
NAMED = ("torch", "transformers", "megatron-core", "sglang")
ALWAYS = ("sglang",)
"""Needed everywhere, though an extra cannot say so for CPUs (see setup.py)."""


def check_software(findings: Findings) -> None:
    """Whether what is installed is what this version was made for."""
    try:
        declared = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        findings.add(LEFT_OUT, "versions", f"{PACKAGE} is not installed here, so nothing says what it needs", "pip install -e .")
        return
    wrong = wrong_versions(declared, "gpu" if torch.cuda.is_available() else "cpu")
    if wrong:
        findings.add(ERROR, "versions", "; ".join(wrong), "install them as README.md, Install, or launch/setup_env.sh does")
    else:
        named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NAMED)
        findings.add(OK, "versions", f"Python {platform.python_version()}, {named}")


def wrong_versions(declared: list[str], extra: str) -> list[str]:
    """What is missing or of another version among requirements as importlib.metadata.requires gives them."""
    wrong = []
    for requirement in map(Requirement, declared):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not applies and requirement.name not in ALWAYS:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is installed, {requirement.specifier} is needed")
    return wrong


def check_gpus(findings: Findings, ranks: int, dtype: str) -> None:
    """Whether this node has a GPU that works for each of its ranks, and they reach each other.

    Args:
        ranks: of this node; 0 where it is to have none, or nobody said how many.
    """
    if not torch.cuda.is_available():
        _without_gpu(findings, dtype)
        return
    count, name = torch.cuda.device_count(), torch.cuda.get_device_name()
    if count < ranks:
        findings.add(ERROR, "GPUs", f"{count} for {ranks} ranks", "ask for them: sbatch --gpus-per-node")
        return
    try:
        values = [torch.ones(1 << 20, device=f"cuda:{i}") for i in range(count)]
        if count > 1:
            torch.cuda.nccl.all_reduce(values)
        total = {float(value[0]) for value in values}
    except RuntimeError as error:
        findings.add(ERROR, "GPUs", f"do not work together: {str(error).splitlines()[0]}", "look at nvidia-smi on this node; drain it")
        return
    level = OK if total == {float(count)} else ERROR
    findings.add(level, "GPUs", f"{count} x {name}, NCCL over all of them adds up to {total}", "" if level == OK else "drain this node")


def _without_gpu(findings: Findings, dtype: str) -> None:
    promised = os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_GPUS_ON_NODE")
    if promised or shutil.which("nvidia-smi"):
        found = f"the job has GPUs ({promised})" if promised else "this node has nvidia-smi"
        findings.add(ERROR, "GPUs", f"{found}, but torch {torch.__version__} sees none", "look at nvidia-smi, and at which torch this is")
    elif dtype == "bfloat16":
        findings.add(WARNING, "GPUs", "none: a bfloat16 run on CPUs", "sbatch --gpus-per-node, if there should be some")
    else:
        findings.add(OK, "GPUs", "none: a run on CPUs with gloo")


def versions() -> dict[str, str]:
    """What has to be the same on all nodes."""
    found = {"Python": platform.python_version()}
    for name in (*NAMED, "transformer-engine", "flash-attn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found | {"GPUs": f"{len(gpus)} x {gpus[0]}" if gpus else "none"}
