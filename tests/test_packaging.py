"""The wheel holds the package, every Hydra config, the report's web libraries, and nothing else. Built with the installed setuptools."""

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megatron_oreal.report.vendor import vendored

ROOT = Path(__file__).parents[1]
BUILD_SECONDS = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy: setuptools writes build/ and *.egg-info beside setup.py, and would pick up what an older build left there."""
    vendored()  # the build would fetch them as well, but each time
    folder = tmp_path_factory.mktemp("packaging")
    source, out = folder / "source", folder / "out"
    for name in ("megatron_oreal", "conf", "tests", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--wheel-dir",
        out,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as file:
        yield file


def files_below(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def read_info(wheel: zipfile.ZipFile, name: str) -> str:
    """A file of *.dist-info."""
    return wheel.read(next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))).decode()


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    return message_from_string(read_info(wheel, "METADATA"))


def test_every_module_and_every_config_is_inside(wheel: zipfile.ZipFile):
    modules = {f"megatron_oreal/{name}" for name in files_below(ROOT / "megatron_oreal", "*.py")}
    configs = {f"megatron_oreal/conf/{name}" for name in files_below(ROOT / "conf", "*.yaml")}
    assert any(name.count("/") >= 3 for name in configs), "conf/ has no groups: is it there?"
    assert not (modules | configs) - set(wheel.namelist())


def test_what_reports_are_drawn_with_is_inside(wheel: zipfile.ZipFile):
    below = ROOT / "megatron_oreal" / "report"
    files = {path.relative_to(ROOT).as_posix() for name in ("web", "vendor") for path in (below / name).rglob("*") if path.is_file()}
    assert {"app.js", "katex.min.js", "KaTeX_Main-Regular.woff2", "LICENSE"} <= {Path(name).name for name in files}
    assert not files - set(wheel.namelist())


def test_nothing_else_is_inside(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert len(tops) == 2 and "megatron_oreal" in tops, tops  # the other one is *.dist-info
    assert not [name for name in wheel.namelist() if "test" in Path(name).name or "golden" in name]


def test_metadata(wheel: zipfile.ZipFile):
    metadata = metadata_of(wheel)
    assert metadata["Name"] == "megatron-oreal"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.13"}
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])
    assert set(metadata.get_all("Provides-Extra")) == {"bench", "cpu", "gpu", "dev"}
    scripts = ConfigParser()
    scripts.read_string(read_info(wheel, "entry_points.txt"))
    assert scripts["console_scripts"]["megatron-oreal"] == "megatron_oreal.train:main"


def test_requirements_allow_the_frozen_environment(wheel: zipfile.ZipFile):
    """setup.py and launch/requirements-cpu.txt cannot drift apart; only Transformer Engine and the bench's TRL are not for it."""
    lines = (ROOT / "launch" / "requirements-cpu.txt").read_text().splitlines()
    frozen = {canonicalize_name(r.name): r.specifier for r in (Requirement(line) for line in lines if line and line[0] != "#")}
    for required in map(Requirement, metadata_of(wheel).get_all("Requires-Dist")):
        if required.name not in ("transformer-engine", "trl"):
            (exactly,) = frozen[canonicalize_name(required.name)]
            assert required.specifier.contains(exactly.version), f"setup.py: {required}, requirements-cpu.txt: {exactly}"


def test_an_unpacked_wheel_runs_from_any_folder(wheel: zipfile.ZipFile, tmp_path: Path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "megatron_oreal.train", "--cfg", "experiment=oreal_32b", "model.path=M", "data.train=D"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "tp: 8" in done.stdout
    probe = "import megatron_oreal.config as c; print(c.__file__)"
    where = subprocess.run([sys.executable, "-c", probe], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert where.stdout.startswith(str(tmp_path / "site")), "the checkout was imported, not the wheel"
    vendor = [sys.executable, tmp_path / "site" / "megatron_oreal" / "report" / "vendor.py", "--registry", "http://127.0.0.1:1"]
    libraries = subprocess.run(vendor, capture_output=True, text=True, timeout=60)
    assert libraries.stdout.startswith(str(tmp_path / "site")), f"the wheel's libraries are not those of its lock file: {libraries.stderr}"
