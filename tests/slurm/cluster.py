"""A real Slurm on this host for the time of some tests: munged, slurmctld, and a slurmd for each "node", all in one folder."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from megatron_oreal.launcher import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
UP_WITHIN_S = 60
NODES = ("n1", "n2", "n3")


def missing() -> str:
    """Why no Slurm can be started here; empty where it can."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"no Slurm here ({', '.join(absent)} missing): apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root here"


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Raises AssertionError, with what() as text, where the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


class Cluster:
    """The daemons. They are started by start() and ended by stop(), which leaves no process of a job behind."""

    def __init__(self, folder: Path):
        self.folder, self._pids = folder, [folder / f"{name}.pid" for name in ("munged", "slurmctld", *NODES)]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(self._configuration())
        at = {name: self.folder / f"munge.{name}" for name in ("socket", "log", "seed")}
        options = [f"--{name}-file={at[name]}" for name in ("log", "seed")]
        self._run("munged", "--force", f"--socket={at['socket']}", f"--key-file={key}", f"--pid-file={self._pids[0]}", *options)
        self._run("slurmctld", "-c")
        for node in NODES:
            self._run("slurmd", "-N", node)
        wait_until(lambda: self.run("sinfo", "-h", "-o", "%D %t").split() == [str(len(NODES)), "idle"], UP_WITHIN_S, self.logs)

    def _configuration(self) -> str:
        host, folder = socket.gethostname().partition(".")[0], self.folder
        ports = [free_port() for _ in range(len(NODES) + 1)]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000"
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        return "\n".join(
            [
                f"ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ports[0]}\nSlurmUser=root\nSlurmdUser=root",
                f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge.socket,cred_expire=5",  # a requeued job waits for so long
                f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool-%n",
                f"SlurmctldPidFile={folder}/slurmctld.pid\nSlurmdPidFile={folder}/%n.pid",
                f"SlurmctldLogFile={folder}/slurmctld.log\nSlurmdLogFile={folder}/%n.log",
                "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\nMpiDefault=none",
                f"FirstJobId={1 + secrets.randbelow(10_000)}",  # ranks meet at a port made from it: two such clusters on one host
                "ReturnToService=2\nSchedulerParameters=bf_interval=3\nSlurmdParameters=config_overrides\nSlurmdTimeout=60\nKillWait=10",
                *nodes,
                "PartitionName=debug Nodes=ALL Default=YES State=UP OverSubscribe=YES",
                "",
            ]
        )

    def _run(self, *command: str) -> None:
        """A daemon, which goes into the background."""
        with open(self.folder / "daemons.log", "ab") as log:
            subprocess.run(command, env=self.environment, check=True, timeout=30, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(command, env=self.environment | environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def logs(self) -> str:
        """The ends of all logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in logs)

    def stop(self) -> None:
        """Cancel what runs, and end the daemons by their pid files."""
        self.run("scancel", "--user=root", check=False)
        with suppress(AssertionError):
            wait_until(lambda: not self.run("squeue", "-h", check=False).strip(), 40, str)
        for path in reversed(self._pids):
            with suppress(OSError, ValueError):
                _end(int(path.read_text()))


def _end(pid: int) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
