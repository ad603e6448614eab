"""Hosts on this machine, as root: network namespaces with addresses, names and links of their own, which can be cut off."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]


def why_none() -> str:
    """Why there can be no such hosts here; empty where there can."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        return "several hosts on one machine take root and iproute2"
    tried = subprocess.run(["ip", "netns", "add", name := f"try{os.getpid()}"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"no network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Hosts:
    """h1, h2, ... at 10.77.0.1, .2, ... (fd77::1, ...) on one switch, all in namespaces of their own; gone after the context."""

    def __init__(self, count: int, own_name_is: str | None = None, docker: bool = False, mbit: int | None = None):
        """`own_name_is`: what each host's own name resolves to there, in place of its address; `docker`: eth0 comes after a docker0.

        `mbit`: a second, in either direction of each link.
        """
        self._numbers, self._own_name_is, self._docker, self._mbit = range(1, count + 1), own_name_is, docker, mbit
        self._tag = f"oreal{os.getpid()}"

    def __enter__(self) -> "Hosts":
        switch = self._namespace(0)
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for n in self._numbers:
            self._add(n)
        return self

    def __exit__(self, *_) -> None:
        for n in (*self._numbers, 0):
            for pid in _output("ip", "netns", "pids", self._namespace(n)).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", self._namespace(n)])
            shutil.rmtree(self._etc(n), ignore_errors=True)

    def _namespace(self, n: int) -> str:
        return f"{self._tag}h{n}"

    def _etc(self, n: int) -> Path:
        return Path("/etc/netns") / self._namespace(n)

    def _add(self, n: int) -> None:
        host, switch, end = self._namespace(n), self._namespace(0), f"h{n}"
        _ip("netns", "add", host)
        if self._docker:
            _ip("-n", host, "link", "add", "docker0", "type", "bridge")
            _ip("-n", host, "addr", "add", "172.17.0.1/16", "dev", "docker0")
            _ip("-n", host, "link", "set", "docker0", "up")
        _ip("-n", switch, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", switch, "link", "set", end, "master", "switch", "up")
        _ip("-n", host, "addr", "add", f"10.77.0.{n}/24", "dev", "eth0")
        _ip("-n", host, "addr", "add", f"fd77::{n}/64", "dev", "eth0", "nodad")
        for device in ("eth0", "lo"):
            _ip("-n", host, "link", "set", device, "up")
        if self._mbit:
            limit = ["root", "tbf", "rate", f"{self._mbit}mbit", "burst", "256kb", "latency", "100ms"]
            for namespace, device in ((switch, end), (host, "eth0")):
                subprocess.run(["tc", "-n", namespace, "qdisc", "replace", "dev", device, *limit], check=True)
        self._etc(n).mkdir(parents=True)
        mine = {m: self._own_name_is if m == n and self._own_name_is else f"10.77.0.{m}" for m in self._numbers}
        (self._etc(n) / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} h{m}\n" for m, a in mine.items()))

    def start(self, n: int, *command: str, log: Path, **variables: str) -> subprocess.Popen:
        """On host `n`, with `variables` in its environment; what it says goes to `log`."""
        namespace = ["ip", "netns", "exec", self._namespace(n)]
        named = ["unshare", "--uts", "bash", "-c", 'hostname "$0" && exec "$@"', f"h{n}"]
        with open(log, "ab") as file:
            return subprocess.Popen(
                [*namespace, *named, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | variables
            )

    def start_module(self, n: int, module: str, arguments: Sequence[str], log: Path, **variables: str) -> subprocess.Popen:
        """`python -m module arguments` there."""
        return self.start(n, sys.executable, "-m", module, *arguments, log=log, **variables)

    def cut(self, n: int) -> None:
        """Host `n` is gone: its packets vanish, and no connection is told."""
        _ip("-n", self._namespace(0), "link", "set", f"h{n}", "nomaster")

    def processes(self) -> list[psutil.Process]:
        """All that run on the hosts."""
        pids = [pid for n in self._numbers for pid in _output("ip", "netns", "pids", self._namespace(n)).split()]
        return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout
