"""Tests that take `golden` run once for every *.npz of --golden-dir."""

from pathlib import Path

import pytest

from tests.oreal.vectors import Golden, load


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_path" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden-dir")
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            raise pytest.UsageError(f"--golden-dir {folder} holds no *.npz file")
        metafunc.parametrize("golden_path", paths, ids=[path.stem for path in paths])


@pytest.fixture
def golden(golden_path: Path) -> Golden:
    return load(golden_path)
