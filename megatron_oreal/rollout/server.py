"""An SGLang server: started here, watched until it answers, and gone when we are."""

import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import requests

from megatron_oreal.launcher import free_port
from megatron_oreal.rollout.config import RolloutConfig

LOG_TAIL_LINES = 15
STOP_GRACE_S = 2.0  # SGLang 0.5.21 looks only every 5 s whether it was told to end: often too short, then it is killed
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)  # loaded here: the child of a process with threads must not take the loader's lock
CPU_FLAGS = {
    "device": "cpu",
    "attention-backend": "torch_native",
    "disable-overlap-schedule": True,
    "mem-fraction-static": 0.1,
    "max-total-tokens": 65536,
}


class ServerError(RuntimeError):
    """The server did not start, or refused a call; one line that says which, with what status, and where its log is."""


@dataclass(frozen=True)
class Endpoint:
    """How to reach a server."""

    url: str
    key: str | None = field(default=None, repr=False)  # admin key, sent with every call
    log: str | None = None  # path of its log, where we started it

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def post(self, path: str, body: dict | None = None, timeout_s: float = 60.0):
        """A control call; returns the JSON answer, None where there is none.

        Raises:
            ServerError: no answer within the deadline, or a status other than 200.
        """
        return self._call("POST", path, timeout_s, json=body or {})

    def get(self, path: str, timeout_s: float = 60.0):
        """As post, for what only reads."""
        return self._call("GET", path, timeout_s)

    def _call(self, method: str, path: str, timeout_s: float, **kwargs):
        try:
            answer = requests.request(method, self.url + path, headers=self.headers, timeout=timeout_s, **kwargs)
        except requests.RequestException as error:
            raise ServerError(f"{self.url}{path}: {type(error).__name__}, deadline {timeout_s:.0f} s{self.where()}") from error
        if answer.status_code != 200:
            raise ServerError(f"{self.url}{path}: status {answer.status_code}, {answer.text[:300].strip()}{self.where()}")
        return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None

    def where(self) -> str:
        """For the end of an error message."""
        return f" (log: {self.log})" if self.log else ""


class Server:
    """A server process of our own in its own process group, bound to 127.0.0.1, with a key of this run for every call.

    To be started in a thread that lives as long as the server may: the kernel ends the server with the thread that forked it.
    """

    def __init__(self, config: RolloutConfig, model_path: str, dtype: str, run_dir: Path):
        self._config = config
        self._log = run_dir / "sglang.log"
        self._stopped = False
        port = free_port()
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", secrets.token_hex(24), str(self._log))
        flags = {
            "model-path": model_path,
            "host": "127.0.0.1",
            "port": port,
            "dtype": dtype,
            "context-length": config.max_total_tokens + 1,
            "config": _write_key(run_dir / "sglang_key.yaml", self.endpoint.key),
            "sleep-on-idle": True,  # an idle server would burn a core that training could use
            "enable-deterministic-inference": config.deterministic,
            **(_no_cuda() and CPU_FLAGS or {}),
            **config.server_args,
        }
        command = [sys.executable, "-m", "megatron_oreal.rollout.sglang_cpu", *_as_arguments(flags)]
        with open(_private(self._log), "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(_tie_to, os.getpid()),
            )

    def wait_ready(self) -> None:
        """Return when the server answers.

        Raises:
            ServerError: it ended, or the deadline passed; with exit status, log path and the log's last lines.
        """
        deadline = time.monotonic() + self._config.ready_timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"SGLang ended with status {self._process.returncode} before it was ready{self._tail()}")
            try:
                if requests.get(self.endpoint.url + "/health", headers=self.endpoint.headers, timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass  # not listening yet
            time.sleep(0.2)
        raise ServerError(f"SGLang did not answer within rollout.ready_timeout_s={self._config.ready_timeout_s:.0f} s{self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return f"; the end of {self._log}:\n  " + "\n  ".join(lines)

    def stop(self) -> None:
        """End the server and all its processes; safe to call again."""
        if self._stopped:
            return
        # The launcher alone is asked: it ends its children. Were they asked too, it would take their end for a crash to diagnose.
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_GRACE_S)
        self._stopped = True


class ExternalServer:
    """A server that somebody else started: waited for, never stopped."""

    def __init__(self, config: RolloutConfig):
        key = Path(config.admin_key_file).read_text().strip() if config.admin_key_file else None
        self.endpoint = Endpoint(config.url.rstrip("/"), key)
        self._timeout_s = config.ready_timeout_s

    def wait_ready(self) -> None:
        """Raises ServerError where it does not answer within the deadline."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                if requests.get(self.endpoint.url + "/health", headers=self.endpoint.headers, timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            if time.monotonic() > deadline:
                raise ServerError(f"rollout.url={self.endpoint.url} does not answer /health within {self._timeout_s:.0f} s")
            time.sleep(0.5)

    def stop(self) -> None:
        """Not ours to stop."""


@contextmanager
def open_server(config: RolloutConfig, model_path: str, dtype: str, run_dir: Path) -> Iterator[Server | ExternalServer]:
    """The server of a run: started (it loads while the caller goes on; see wait_ready) and stopped, or an external one."""
    server = ExternalServer(config) if config.placement == "external" else Server(config, model_path, dtype, run_dir)
    try:
        yield server
    finally:
        server.stop()


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


def _private(path: Path) -> Path:
    """An empty file that only its owner may read."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    return path


def _write_key(path: Path, key: str) -> Path:
    """The key, for SGLang's --config: a command line would show it to everybody on this host. (SGLang's log shows it as well.)

    One key for both kinds of calls: with an admin key alone anybody on this host could sample.
    """
    _private(path).write_text(json.dumps({"api-key": key, "admin-api-key": key}))
    return path


def _tie_to(parent: int) -> None:
    """In the child before exec: SIGHUP when the parent dies, however it dies; the launcher then ends its whole group."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored until the launcher has its own handler
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:  # it died meanwhile
        os._exit(1)
