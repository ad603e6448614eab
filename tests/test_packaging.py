"""The wheel holds the package, every Hydra config, the tools, the report's web libraries, and nothing else; its command works from any
folder. Built with the installed setuptools."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megatron_oreal.cli.main import COMMANDS
from megatron_oreal.report.vendor import vendored
from tests.report import synthetic

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
    modules |= {f"megatron_oreal/benches/tools/{name}" for name in files_below(ROOT / "tools", "*.py")}
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
    assert set(metadata.get_all("Provides-Extra")) == {"bench", "cpu", "gpu", "dev", "plan"}
    scripts = ConfigParser()
    scripts.read_string(read_info(wheel, "entry_points.txt"))
    assert scripts["console_scripts"]["megatron-oreal"] == "megatron_oreal.cli.main:main"


NOT_FROZEN = {"cpu": {"transformer-engine", "cuda-toolkit", "trl"}, "gpu": {"trl"}}
"""What an environment leaves out: what is of GPUs, and the bench's TRL."""


def frozen(kind: str) -> dict[str, Requirement]:
    """Package -> its line in launch/requirements-<kind>.txt."""
    lines = (ROOT / "launch" / f"requirements-{kind}.txt").read_text().splitlines()
    return {canonicalize_name(r.name): r for r in (Requirement(line) for line in lines if line and line[0] != "#")}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_requirements_allow_the_frozen_environments(wheel: zipfile.ZipFile, kind: str):
    """setup.py and launch/requirements-*.txt cannot drift apart."""
    versions = frozen(kind)
    for required in map(Requirement, metadata_of(wheel).get_all("Requires-Dist")):
        extra = required.marker is not None and not required.marker.evaluate({"extra": kind})
        if required.name in NOT_FROZEN[kind] or (kind == "gpu" and extra):
            continue
        (exactly,) = versions[canonicalize_name(required.name)].specifier
        assert required.specifier.contains(exactly.version), f"setup.py: {required}, requirements-{kind}.txt: {exactly}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv (pip install uv), and a registry")
def test_the_gpu_environment_resolves_to_itself(tmp_path: Path):
    """Nothing is missing in it, and its versions belong together, by the metadata of all packages."""
    given = ROOT / "launch" / "requirements-gpu.txt"
    target = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_34"]
    override = tmp_path / "override.txt"
    override.write_text("cuda-tile==1.6.0\ntransformer-engine-cu12; sys_platform == 'none'\n")
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--override", override, *target, given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [line for line in given.read_text().splitlines() if line and line[0] != "#"]


def test_containers_take_what_the_script_needs():
    copied = (ROOT / "launch" / "container" / "Dockerfile").read_text() + (ROOT / "launch" / "container" / "megatron_oreal.def").read_text()
    for path in (
        "launch/setup_env.sh",
        "launch/requirements-gpu.txt",
        "setup.py",
        "README.md",
        "LICENSE",
        "megatron_oreal",
        "conf",
        "tools",
    ):
        assert (ROOT / path).exists() and copied.count(path) >= 2, path


@dataclass(frozen=True)
class Installed:
    """A wheel in a folder of its own, and a place to work that is not the checkout."""

    prefix: Path
    elsewhere: Path

    @property
    def environment(self) -> dict[str, str]:
        paths = {"PYTHONPATH": str(self.site), "PATH": f"{self.prefix / 'bin'}:{os.environ['PATH']}"}
        return {**os.environ, **paths, "PYTHONSAFEPATH": "1"}

    @property
    def site(self) -> Path:
        (site,) = self.prefix.glob("lib/python*/site-packages")
        return site

    def run(self, *command: str | Path) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "timeout": 3 * BUILD_SECONDS}
        return subprocess.run(command, cwd=self.elsewhere, env=self.environment, **options)

    def succeed(self, *command: str | Path) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    prefix = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", "--prefix", prefix]
    done = subprocess.run([*command, wheel.filename], capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return Installed(prefix, tmp_path_factory.mktemp("elsewhere"))


def test_the_wheels_own_code_runs(installed: Installed):
    probe = "import megatron_oreal.config as c; print(c.__file__)"
    assert installed.succeed(sys.executable, "-c", probe).startswith(str(installed.prefix)), "the checkout was imported, not the wheel"
    vendor = [sys.executable, installed.site / "megatron_oreal" / "report" / "vendor.py", "--registry", "http://127.0.0.1:1"]
    libraries = installed.run(*vendor)
    assert libraries.stdout.startswith(str(installed.prefix)), f"the wheel's libraries are not those of its lock file: {libraries.stderr}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_a_wheel_says_what_it_does(installed: Installed, name: str):
    assert f"usage: megatron-oreal {name}" in installed.succeed("megatron-oreal", name, "--help")


def test_a_wheel_composes_plans_reports_and_measures(installed: Installed):
    given = ["experiment=oreal_32b", "model.path=M", "data.train=D"]
    assert "tp: 8" in installed.succeed("megatron-oreal", "train", "--cfg", *given)
    assert "tp: 8" in installed.succeed(sys.executable, "-m", "megatron_oreal.train", "--cfg", *given)
    assert json.loads(installed.succeed("megatron-oreal", "plan", "experiment=oreal_7b", "--json"))["fits"]
    synthetic.write_metrics(installed.elsewhere / "run", 3)
    assert "wrote run/report.html" in installed.succeed("megatron-oreal", "report", "run")
    assert (installed.elsewhere / "run" / "report.html").stat().st_size > 100_000
    assert "| by budget and FLOPs |" in installed.succeed("megatron-oreal", "bench", "packing", "--dp", "4", "--seeds", "1")
    refused = installed.run("megatron-oreal", "bench", "ablation")
    assert refused.returncode == 2 and "needs a checkout" in refused.stderr
    assert not list(installed.site.rglob("work_dirs"))


def test_tab_completes_in_bash(installed: Installed):
    """Hydra's function as bash calls it, the command's answers filtered by bash."""
    ask = 'COMP_LINE="$1" COMP_POINT=${#1}; words=($1); COMP_CWORD=$((${#words[@]} - 1)); hydra_bash_completion; echo "${COMPREPLY[@]}"'
    script = f'eval "$(megatron-oreal -sc install=bash)"; ask() {{ {ask}; }}; '
    lines = ("megatron-oreal pl", "megatron-oreal train experiment=oreal_7b_r", "megatron-oreal plan policy.optimizer.lr")
    said = installed.succeed("bash", "-c", script + "; ".join(f"ask '{line}'" for line in lines)).splitlines()
    assert said == [
        "plan",
        "experiment=oreal_7b_r1",
        "policy.optimizer.lr=",
    ]
