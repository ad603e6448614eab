"""Options of the whole test suite; here, because pytest reads options only from the conftest files it loads first."""

from pathlib import Path

import pytest

SHIPPED_GOLDEN = Path(__file__).parent / "oreal" / "golden"
SHARED_GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=SHARED_GOLDEN if SHARED_GOLDEN.is_dir() else SHIPPED_GOLDEN,
        help="folder of *.npz files that the OREAL objective is run against (default: ../shared/golden, else the shipped copies)",
    )
