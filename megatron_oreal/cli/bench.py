"""Measures parts of this project on this machine, each beside what it is to be compared with:

    megatron-oreal bench packing --dp 4 16
    megatron-oreal bench real --help

The same as python tools/bench_NAME.py in a checkout. A wheel has them all, but `ablation` needs launch/demo.sh, and so a checkout.
"""

import argparse
import ast
import os
import sys
from pathlib import Path

from megatron_oreal.command import Parser, guarded
from megatron_oreal.keys.nearest import hint

PREFIX = "bench_"


def tools_dir() -> Path:
    """The benches: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).resolve().parents[1] / "benches" / "tools"
    return inside if inside.is_dir() else inside.parents[2] / "tools"


def names() -> list[str]:
    """Of the benches."""
    return sorted(path.stem.removeprefix(PREFIX) for path in tools_dir().glob(f"{PREFIX}*.py"))


def what_it_measures(name: str) -> str:
    """The first line of its docstring."""
    return ast.get_docstring(ast.parse(_file(name).read_text(encoding="utf-8"))).splitlines()[0].rstrip(":.")


def _file(name: str) -> Path:
    return tools_dir() / f"{PREFIX}{name}.py"


def bench(arguments: list[str]) -> int:
    """Becomes that script, whose memory and processes are then its own; returns where only help was asked for."""
    parser = Parser(prog="megatron-oreal bench", description=__doc__, epilog="\n".join(f"  {n:12}{what_it_measures(n)}" for n in names()))
    parser.add_argument("name", metavar="NAME", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own; --help lists them")
    asked = parser.parse_args(arguments)
    if asked.name not in names():
        raise ValueError(f"{asked.name!r} is no bench{hint(asked.name, names())}; there are {', '.join(names())}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(_file(asked.name)), *asked.arguments])


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: bench(list(sys.argv[1:] if arguments is None else arguments)))
