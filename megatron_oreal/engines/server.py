"""An SGLang server: started here, watched until it answers, and gone when we are."""

import json
import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from megatron_oreal import launcher
from megatron_oreal.engines.cpu_share import CpuShare
from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.errors import ServerError
from megatron_oreal.machine import LARGE, LIBC, Memory
from megatron_oreal.network import address_of_this_host, interface_variables, proxies_of_environment, url_of
from megatron_oreal.rollout.config import EVERY_ADDRESS, RolloutConfig

LOG_TAIL_LINES = 15
STOP_GRACE_S = 2.0  # SGLang 0.5.21 looks only every 5 s whether it was told to end: often too short, then it is killed
PR_SET_PDEATHSIG = 1


class Server:
    """A server process of our own in its own process group, bound to rollout.bind, with a key of its own for every call.

    To be started in a thread that lives as long as the server may: the kernel ends the server with the thread that forked it.
    """

    def __init__(
        self,
        config: RolloutConfig,
        model_path: str,
        dtype: str,
        run_dir: Path,
        number: int = 0,
        start: int = 0,
        first_gpu: int = 0,
        asked: int | None = None,
    ):
        """`number` among the run's engines; `start` counts its restarts, each with a log of its own.

        `asked`: answers that it is asked for at one time (see demand); None: as many as it may be.
        """
        self._config, self._stopped = config, False
        name = f"sglang{f'-{number}' if number else ''}{f'-restart{start}' if start else ''}"
        self._log = run_dir / f"{name}.log"
        self._ports = launcher.HeldPort(), launcher.HeldPort()  # as long as the engine may live
        address = _reached_at(config.bind)
        self.endpoint = Endpoint(url_of(address, self._ports[0].number), secrets.token_hex(24), str(self._log), number)
        key = _write_key(run_dir / f"{name}_key.yaml", self.endpoint.key)
        cpu = _cpu_share(config, Path(model_path), dtype, asked) if _no_cuda() else None
        here = _cpu_flags(cpu) if cpu else {"base-gpu-id": first_gpu, "enable-memory-saver": config.releases_memory()}
        environment = _own_environment() | (_cpu_environment(config.tp, cpu) if cpu else cuda_of_wheels())
        flags = self._flags(model_path, dtype, key) | here | config.server_args
        self._process = self._start(flags, interface_variables(address) | environment)

    def _flags(self, model_path: str, dtype: str, key: Path) -> dict:
        config, (port, nccl_port) = self._config, (held.number for held in self._ports)
        return {
            "model-path": model_path,
            "host": config.bind,
            "port": port,
            "nccl-port": nccl_port,  # SGLang would take one from which the kernel serves outgoing connections as well
            "dtype": dtype,
            "context-length": config.max_total_tokens + 1,
            "config": key,
            "skip-tokenizer-init": True,  # tokens in, tokens out: text is rank 0's, by the one tokenizer of the run
            "sleep-on-idle": True,  # an idle server would burn a core that training could use
            "tp-size": config.tp,
            "enable-deterministic-inference": config.deterministic,
            **config.engine_flags,
        }

    def _start(self, flags: dict, environment: dict[str, str]) -> subprocess.Popen:
        with open(_private(self._log), "ab") as log:
            return launcher.start_module(
                "megatron_oreal.engines.sglang_cpu",
                _as_arguments(flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(_tie_to, os.getpid()),
                env=environment,
            )

    @property
    def ended(self) -> str:
        """How its process ended, in words; empty while it lives."""
        status = self._process.poll()
        return "" if status is None else f"ended with status {status}"

    def wait_ready(self) -> None:
        """Return when the server answers.

        Raises:
            ServerError: it ended, or the deadline passed; with exit status, log path and the log's last lines.
        """
        deadline = time.monotonic() + self._config.ready_timeout_s
        while time.monotonic() < deadline:
            if self.ended:
                raise ServerError(self.not_ready)
            if self.endpoint.healthy(5):
                return
            time.sleep(0.2)
        raise ServerError(self.late)

    @property
    def late(self) -> str:
        """What to say where it did not answer in time."""
        return f"SGLang did not answer within rollout.ready_timeout_s={self._config.ready_timeout_s:.0f} s{self._tail()}"

    @property
    def not_ready(self) -> str:
        """What to say where it ended before it answered."""
        return f"SGLang {self.ended} before it was ready{self._tail()}"

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return f"; the end of {self._log}:\n  " + "\n  ".join(lines)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def kill(self) -> None:
        """End the server and all its processes at once, whatever state they are in."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # in the kernel, on a GPU or a file system that is away: it ends when it comes back
            self._process.wait(STOP_GRACE_S)
        for port in self._ports:
            port.let_go()
        self._stopped = True

    def stop(self) -> None:
        """End the server and all its processes; safe to call again."""
        if self._stopped:
            return
        # The launcher alone is asked: it ends its children. Were they asked too, it would take their end for a crash to diagnose.
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_GRACE_S)
        self.kill()


def _as_arguments(flags: dict) -> list[str]:
    arguments = []
    for name, value in flags.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments


def _no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()


def _reached_at(bind: str) -> str:
    """The address at which others find a server that listens at `bind`."""
    return address_of_this_host(ipv6=bind == "::") if bind in EVERY_ADDRESS else bind


def _own_environment() -> dict[str, str]:
    """Ours without what makes us a rank: under torchrun's variables an engine's own ranks would wait for an agent's store.

    And without proxies and ~/.netrc: SGLang asks itself over HTTP whether it is up; those would see its key, and this replace it.
    """
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR", "MASTER_PORT")
    without = {*ranks, *proxies_of_environment()}
    kept = {name: value for name, value in os.environ.items() if name not in without and not name.startswith("TORCHELASTIC_")}
    return kept | {"NETRC": os.devnull}


def _cpu_share(config: RolloutConfig, model: Path, dtype: str, asked: int | None) -> CpuShare:
    asked = asked or config.concurrency * config.samples
    return CpuShare.of(model, dtype, config, asked, len(os.sched_getaffinity(0)), Memory.of_this_machine().free)


def _cpu_flags(cpu: CpuShare) -> dict:
    """The cache's size is said in tokens: a share of the memory would have to guess what ranks that load beside the engine will take.

    For SGLang they have already taken it from the share; hence one that is never reached.
    """
    return {
        "device": "cpu",
        "attention-backend": "torch_native",
        "disable-overlap-schedule": True,
        "mem-fraction-static": 0.999,
        "max-total-tokens": cpu.cache_tokens,
    }


def _cpu_environment(tp: int, cpu: CpuShare) -> dict[str, str]:
    """Threads, what malloc keeps, and a core for each rank: without the latter SGLang wants one NUMA node a rank."""
    kept = (32 << 20, 2**31 - 1) if cpu.keeps_memory else (LARGE, LARGE)
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpu.threads))}
    environment |= zip(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), map(str, kept), strict=True)
    if tp > 1:
        cores = sorted(os.sched_getaffinity(0))
        environment["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(str(cores[rank % len(cores)]) for rank in range(tp))
    return environment


def cuda_of_wheels() -> dict[str, str]:
    """Where CUDA's runtime and compiler are if they came as wheels, beside torch's.

    What lets an engine sleep is a library that is loaded before Python (torch-memory-saver 0.0.10), says nothing of where that runtime is,
    and without it SGLang's processes end with status 127. And FlashInfer and SGLang compile kernels when they start.
    """
    packages = Path(find_spec("torch").origin).parents[1]
    folders = sorted({library.parent for library in packages.glob("nvidia/*/lib/libcudart.so.*")})
    if not folders:
        return {}
    known = os.environ.get("LD_LIBRARY_PATH")
    found = {"LD_LIBRARY_PATH": ":".join([*map(str, folders), *([known] if known else [])])}
    home, said = folders[-1].parent, {"CUDA_HOME", "CUDA_PATH"} & os.environ.keys()
    return found | ({"CUDA_HOME": str(home)} if (home / "bin" / "nvcc").exists() and not said else {})


def _private(path: Path) -> Path:
    """A file that only its owner may read; what an earlier attempt at the run wrote there stays."""
    os.close(os.open(path, os.O_CREAT, 0o600))
    path.chmod(0o600)
    return path


def _write_key(path: Path, key: str) -> Path:
    """The key, for SGLang's --config: a command line would show it to everybody on this host. (SGLang's log shows it as well.)

    One key for both kinds of calls: with an admin key alone anybody on this host could sample.
    """
    _private(path).write_text(json.dumps({"api-key": key, "admin-api-key": key}))
    return path


def _tie_to(parent: int) -> None:
    """In the child before exec: SIGHUP when the parent dies, however it dies; the launcher then ends its whole group."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm sends it to all processes of a step; it is meant for the ranks
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored until the launcher has its own handler
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:  # it died meanwhile
        os._exit(1)
