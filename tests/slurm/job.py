"""A job of launch/slurm on the test's cluster."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.slurm.cluster import Cluster, wait_until

ROOT = Path(__file__).parents[2]
DEADLINE_S = 400


class Job:
    """Submitted when made, over `nodes` x 2 tasks."""

    def __init__(self, cluster: Cluster, folder: Path, nodes: int, *overrides: str, script: str = "oreal_7b.sbatch"):
        self.cluster, self.run_dir, self._log, self._site = cluster, folder / "run", folder / "job.log", folder / "site.sh"
        self._site.write_text(f"PYTHON={sys.executable}\nCONTAINER=()\nDOCTOR=(--slowest-disk 1)\nMAX_REQUEUES=5\nTASKS_APART_S=15\n")
        environment = {
            "SITE": str(self._site),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "RANK_NODES": "2",
        }
        flags = [f"--nodes={nodes}", "--ntasks-per-node=2", "--gpus-per-node=0", "--time=30", "--signal=B:USR1@240"]
        where = [f"--chdir={ROOT}", f"--output={self._log}", "--parsable"]
        given = [str(ROOT / "launch/slurm" / script), *overrides, f"run_dir={self.run_dir}"]
        self.id = cluster.run("sbatch", *flags, *where, *given, **environment).strip()

    def change(self, override: str) -> None:
        """From its next start on."""
        with open(self._site, "a") as site:  # which is sourced where the overrides are the arguments
            site.write(f'set -- "$@" {override}\n')

    def facts(self) -> dict[str, str]:
        """What Slurm says of it: JobState, Restarts, RunTime, ExitCode..."""
        words = self.cluster.run("scontrol", "show", "job", "-o", self.id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    @property
    def steps(self) -> list[int]:
        """Steps of the run that are done."""
        path = self.run_dir / "metrics.jsonl"
        rows = [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []
        return [row["step"] for row in rows]

    @property
    def own_log(self) -> str:
        """What its batch script and srun say."""
        return self._log.read_text(errors="replace")

    @property
    def said(self) -> str:
        """The job's own log, and after it those of its nodes."""
        logs = [self._log, *sorted(self.run_dir.glob("logs/*/*"))]
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')}" for log in logs if log.exists())

    def wait(self, condition: Callable[["Job"], object]) -> None:
        wait_until(lambda: condition(self), DEADLINE_S, lambda: f"{self.facts()}\n{self.said}")

    def wait_for_step(self, step: int) -> None:
        def is_there(job: Job) -> bool:
            assert job.facts()["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), job.said
            return step in job.steps

        self.wait(is_there)

    def wait_for_requeue(self, times: int) -> None:
        """Until it runs again, having been requeued so often."""
        self.wait(lambda job: job.facts()["Restarts"] == str(times) and job.facts()["JobState"] == "RUNNING")

    def end(self) -> str:
        """Its state once it is over."""
        self.wait(lambda job: job.facts()["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"))
        return self.facts()["JobState"]

    def processes(self, module: str, node: str) -> list[psutil.Process]:
        """Its tasks that run `python -m module` on this node."""
        return [p for p in psutil.process_iter() if _is_task(p, module, {"SLURM_JOB_ID": self.id, "SLURMD_NODENAME": node})]


def _is_task(process: psutil.Process, module: str, variables: dict[str, str]) -> bool:
    try:
        wanted = process.cmdline()[1:3] == ["-m", module]
        return wanted and variables.items() <= process.environ().items() and process.parent().name() == "slurmstepd"
    except (psutil.Error, AttributeError, OSError):
        return False  # it has ended meanwhile


def is_running(process: psutil.Process) -> bool:
    """Whether it does anything any more."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
