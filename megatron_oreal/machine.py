"""The memory that this machine has for a run, or its container where that has less; and how a process takes it."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

LIBC = ctypes.CDLL(None)  # loaded once, and early: the child of a process with threads must not take the loader's lock
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 2 << 20  # bytes: a huge page
MANY_FILES = 65536
FEWEST_FILES = 256  # two ranks of the demo and their engine were seen to do with them, and not with 100


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    total: int  # what all processes together may hold
    free: int  # of it, what nobody holds now; files that the kernel keeps for later are free

    @classmethod
    def of_this_machine(cls, root: Path = Path("/")) -> "Memory":
        """The least of what the kernel has and of the limits of our control groups (version 1 or 2). `root`: where /proc and /sys are."""
        machine = psutil.virtual_memory()
        limits = [cls(machine.total, machine.available), *_control_groups(root)]
        return cls(min(limit.total for limit in limits), max(min(limit.free for limit in limits), 0))


def _control_groups(root: Path) -> Iterator[Memory]:
    """Of our group and those that it stands in, as far as they have a limit.

    A container may see its own group as the root of the hierarchy while /proc names it by the host's path: then only the root is there.
    """
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            top = root / "sys/fs/cgroup" / controllers
            own = top / path.lstrip("/")
            for folder in (own, *own.parents):
                with suppress(OSError, ValueError, StopIteration):
                    yield _limit_of(folder, *(VERSION_1 if controllers else VERSION_2))
                if folder == top:
                    break


VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
"""Files with the limit and what is held, and the line of memory.stat that says how much of the latter the kernel would give up."""


def _limit_of(folder: Path, limit: str, held: str, reclaimable: str) -> Memory:
    """Raises OSError, ValueError ("max") or StopIteration where there is none."""
    most, now = (int((folder / name).read_text()) for name in (limit, held))
    lines = (folder / "memory.stat").read_text().splitlines()
    cached = next(int(line.split()[1]) for line in lines if line.split()[0] == reclaimable)
    return Memory(most, most - now + cached)


def ask_for_huge_pages() -> None:
    """For what torch allocates in this process, and in those that it starts; to be said before torch is imported.

    Fresh memory of 256 MiB is filled in 15 ms then, instead of 100 (measured, one core).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def take_all_open_files() -> None:
    """As many as this process may have, up to MANY_FILES, for itself and those that it starts: often 1,024 are granted and more allowed.

    A rollout holds a connection for each request in flight. Raises ValueError where fewer than FEWEST_FILES are allowed: gloo would abort.
    """
    granted, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if most == resource.RLIM_INFINITY else min(most, MANY_FILES)
    if wanted < FEWEST_FILES:
        raise ValueError(f"a process may open {wanted} files here, and {FEWEST_FILES} are needed: raise the hard limit (ulimit -Hn)")
    if 0 <= granted < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def give_back_what_is_freed(at_least: int = LARGE) -> None:
    """Memory of a tensor of so many bytes goes back to the kernel with the tensor.

    By itself glibc keeps freed blocks of up to 32 MiB; small ones then split them, and the next large tensor takes new memory. Measured
    (0.5B model in two ranks): 0.6 GiB less in each, and no slower with huge pages.
    """
    if hasattr(LIBC, "mallopt"):  # glibc
        LIBC.mallopt(M_MMAP_THRESHOLD, at_least)


def gpu_memory(driver: str = "libcuda.so.1") -> int | None:
    """Bytes of the first GPU that we may use, as torch counts them; None without one. Asked of the driver, so that no context is made."""
    device, size = ctypes.c_int(), ctypes.c_size_t()
    try:
        cuda = ctypes.CDLL(driver)
        failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    except (OSError, AttributeError):  # no such library, or none of these calls
        return None
    return None if failed else size.value
