"""How an engine is reached: one address and its key, or several at once. Every status is looked at; every call has a deadline."""

import os
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import requests

from megatron_oreal.errors import Refused, ServerError


@dataclass(frozen=True)
class Endpoint:
    """How to reach a server."""

    url: str
    key: str | None = field(default=None, repr=False)  # admin key, sent with every call
    log: str | None = None  # path of its log, where we started it
    number: int | None = None  # among the run's engines, where we started it

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def post(self, path: str, body: dict | None = None, timeout_s: float = 60.0):
        """A control call; returns the JSON answer, None where there is none.

        Raises:
            ServerError: no answer within the deadline; or, a Refused, with a status other than 200.
        """
        return self._call("POST", path, timeout_s, json=body or {})

    def get(self, path: str, timeout_s: float = 60.0):
        """As post, for what only reads."""
        return self._call("GET", path, timeout_s)

    def _call(self, method: str, path: str, timeout_s: float, **kwargs):
        try:
            answer = _directly(method, self.url + path, headers=self.headers, timeout=timeout_s, **kwargs)
        except requests.RequestException as error:
            raise ServerError(f"{self.url}{path}: {type(error).__name__}, deadline {timeout_s:.0f} s{self.where()}") from error
        if answer.status_code != 200:
            text = f"{self.url}{path}: status {answer.status_code}, {answer.text[:300].strip()}{self.where()}"
            raise Refused(text, answer.status_code)
        return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None

    def healthy(self, timeout_s: float) -> bool:
        """Whether it says within this time that it can generate. A paused one cannot."""
        return self._is_ok("/health", timeout_s)

    def works(self, timeout_s: float) -> bool:
        """Whether its scheduler answers within this time, paused or not."""
        return self._is_ok("/server_info", timeout_s)

    def answers(self, timeout_s: float) -> bool:
        """Whether its HTTP server answers within this time, whatever its scheduler does."""
        return self._is_ok("/model_info", timeout_s)

    def _is_ok(self, path: str, timeout_s: float) -> bool:
        try:
            return _directly("GET", self.url + path, headers=self.headers, timeout=timeout_s).status_code == 200
        except requests.RequestException:
            return False  # not listening, or silent

    def where(self) -> str:
        """For the end of an error message."""
        return f" (log: {self.log})" if self.log else ""


def _directly(method: str, url: str, **options) -> requests.Response:
    """Without the environment's proxies, which would see the key, and without ~/.netrc, which would replace it."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE", True)  # for https the environment still says whom to trust
        return session.request(method, url, **options)


def own_address(url: str, timeout_s: float) -> str:
    """The address of this host that an engine can reach: the one from which this host reaches the engine."""
    return _ends(url, timeout_s)[0]


def is_on_this_host(url: str, timeout_s: float) -> bool:
    """Whether the engine at this address listens on this very host."""
    ours, theirs = _ends(url, timeout_s)
    return ours == theirs


def _ends(url: str, timeout_s: float) -> tuple[str, str]:
    """Both addresses of a connection with the engine. Raises ServerError where there is none."""
    engine = urlsplit(url)
    try:
        with socket.create_connection((engine.hostname, engine.port or 80), timeout_s) as probe:
            return probe.getsockname()[0], probe.getpeername()[0]
    except OSError as error:
        raise ServerError(f"{url}: {error}") from error
