"""What a process may take of the memory, by files as the kernel writes them."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from megatron_oreal.machine import Memory

MIB = 2**20


@pytest.fixture
def written(tmp_path):
    """written({path: text}) -> a folder with these files below proc/ and sys/."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def group(folder: str, limit: str, held: int, cached: int) -> dict[str, str]:
    """Files of version 2."""
    stat = f"anon {held - cached}\ninactive_file {cached}\n"
    return {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{held}\n", f"{folder}/memory.stat": stat}


def test_without_a_limit_it_is_the_machines(written):
    machine = psutil.virtual_memory()
    unlimited = group("sys/fs/cgroup/a", "max", 5 * MIB, MIB)
    for files in ({}, {"proc/self/cgroup": "0::/a\n", **unlimited}):
        memory = Memory.of_this_machine(written(files))
        assert memory.total == machine.total and 0 < memory.free <= memory.total


def test_the_tightest_group_above_us_counts_and_what_the_kernel_would_give_up_is_free(written):
    ours, above = group("sys/fs/cgroup/a/b", "max", 10 * MIB, 0), group("sys/fs/cgroup/a", str(100 * MIB), 30 * MIB, 20 * MIB)
    assert Memory.of_this_machine(written({"proc/self/cgroup": "0::/a/b\n", **ours, **above})) == Memory(100 * MIB, 90 * MIB)


def test_version_1_and_a_container_that_sees_its_own_group_as_the_root(written):
    root = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "5:cpu:/host/x\n4:memory:/host/path/of/x\n0::/\n",
        f"{root}/memory.limit_in_bytes": str(64 * MIB),
        f"{root}/memory.usage_in_bytes": str(70 * MIB),  # above a limit that was lowered
        f"{root}/memory.stat": f"cache 5\ntotal_inactive_file {MIB}\n",
    }
    assert Memory.of_this_machine(written(files)) == Memory(64 * MIB, 0)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SHOWS_ITS_MEMORY = """
from megatron_oreal import machine
machine.ask_for_huge_pages()
import torch
machine.give_back_what_is_freed()
def mib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith(name + ":")) >> 10
large, before = torch.ones(32 << 20), mib("Rss")
pieces = [torch.ones(1 << 20) for _ in range(128)]  # 4 MiB each, which glibc would keep for later
held = mib("Rss")
del pieces[::2]
print(mib("AnonHugePages"), held - before, held - mib("Rss"))
"""


def test_large_tensors_have_huge_pages_and_give_them_back():
    if not HUGE_PAGES.is_file() or "[never]" in HUGE_PAGES.read_text():
        pytest.skip(f"{HUGE_PAGES}: the kernel gives no huge pages here")
    done = subprocess.run([sys.executable, "-c", SHOWS_ITS_MEMORY], capture_output=True, text=True, timeout=120, check=True)
    huge, taken, returned = map(int, done.stdout.split())
    assert huge > 128 + 100 and taken > 500 and returned > 250
