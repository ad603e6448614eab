"""Packaging of megatron-oreal: the package, inside it conf/ as megatron_oreal/conf and tools/ as megatron_oreal/benches/tools (for
`megatron-oreal bench`; they import each other as `tools`, hence the folder between), and the report's web libraries."""

import re
import runpy
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "megatron_oreal" / "__init__.py").read_text(), re.MULTILINE)[1]

# What every machine needs, at the versions that sglang 0.5.21 pins (torch, transformers) or that were measured with them on CPU.
# megatron-core 0.16.1 is the newest for Python 3.11; psutil is undeclared there, and without it saving a checkpoint hangs.
BASE = [
    "torch==2.13.0",
    "transformers==5.12.1",
    "megatron-core==0.16.1",
    "psutil",
    "numpy",
    "safetensors",
    "aiohttp",
    "requests",
    "msgspec",
    "pyarrow",
    "mpmath",
    "hydra-core==1.3.8",
    "omegaconf==2.3.1",
    "sympy==1.14.0",
    "rich",
    "tensorboard",
]

# CPU, measured: training (gloo) and a real SGLang server. What that server imports; sglang==0.5.21 and xgrammar==0.2.7 themselves must be
# installed with --no-deps, which an extra cannot say: launch/setup_env.sh does it, with every version frozen in requirements-cpu.txt.
CPU = [
    "tokenizers==0.22.2",
    "fastapi",
    "uvicorn>=0.51",
    "uvloop",
    "python-multipart",
    "orjson",
    "pyzmq>=25.1.2",
    "setproctitle",
    "pybase64",
    "pillow",
    "IPython",
    "dill",
    "einops",
    "jsonschema",
    "sentencepiece==0.2.1",
    "compressed-tensors==0.18.0",
    "gguf",
    "openai==2.6.1",
    "partial_json_parser",
    "soundfile==0.13.1",
    "apache-tvm-ffi==0.1.11",
]

# GPU, NOT run: that these versions belong together is read from sglang's metadata (it pins torch 2.13.0, transformers 5.12.1 and the
# CUDA 13 kernels). Transformer Engine builds its torch extension on installation; 2.11.0 was built and imported with torch 2.13.0.
# launch/requirements-gpu.txt freezes everything that they ask for.
GPU = [
    "sglang==0.5.21",
    "transformer-engine[core_cu13,pytorch]==2.11.0",
    "cuda-toolkit[cccl,nvcc]",  # a compiler of the release that torch's headers are of: SGLang's libraries build kernels when they start
]

DEV = [
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "hypothesis==6.170.15",
    "ruff==0.17.6",
    "import-linter==2.17",
    "mbridge==0.15.1",
    "selenium==4.51.0",
    "setuptools>=77",
    "wheel",
]
# Measured times of operations on A100, H100, H200, B200 and GB200, for `megatron-oreal plan` (Apache-2.0, 114 MB). Its metadata asks for
# pandas and scipy as well, which are not imported: launch/setup_env.sh leaves them out.
PLAN = ["aiconfigurator-core==0.12.0", "pyyaml", "packaging"]
# Imported by tools/bench_real.py and tools/bench_verifier.py alone.
BENCH = ["trl==1.16.0", "math-verify==0.9.0"]
DATA_FOLDERS = ["megatron_oreal.report.web", "megatron_oreal.report.vendor"]  # no packages, though they look like some


class BuildWithWebLibraries(build_py):
    """Fetches what reports are drawn with (megatron_oreal/report/vendor.py). Without a network a wheel is not built; a checkout can be
    installed all the same, and fetches when its first report is written."""

    def run(self) -> None:
        vendor = runpy.run_path(str(ROOT / "megatron_oreal" / "report" / "vendor.py"))
        try:
            vendor["vendored"]()
        except OSError as error:
            if not self.editable_mode:
                raise
            self.announce(f"{error}; `megatron-oreal report` will try again", level=3)
        super().run()


setup(
    name="megatron-oreal",
    version=VERSION,
    description="Outcome-reward reinforcement learning (OREAL, arXiv 2502.06781) on Megatron-Core and SGLang",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["reinforcement learning", "mathematical reasoning", "OREAL", "Megatron-Core", "SGLang"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11,<3.13",
    packages=[
        *find_namespace_packages(include=["megatron_oreal", "megatron_oreal.*"], exclude=["*.__pycache__", *DATA_FOLDERS]),
        "megatron_oreal.conf",
        "megatron_oreal.benches.tools",
    ],
    package_dir={"megatron_oreal.conf": "conf", "megatron_oreal.benches.tools": "tools"},
    package_data={"megatron_oreal.conf": ["**/*.yaml"], "megatron_oreal.report": ["web/*", "vendor/**/*"]},
    cmdclass={"build_py": BuildWithWebLibraries},
    install_requires=BASE,
    extras_require={"cpu": CPU, "gpu": GPU, "dev": DEV, "bench": BENCH, "plan": PLAN},
    entry_points={"console_scripts": ["megatron-oreal = megatron_oreal.cli.main:main"]},
    zip_safe=False,
)
