"""The judge's hosts: the least busy one is asked, one that fails again and again is left alone for a while."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from megatron_oreal.verify.config import JudgeConfig

LOOK_AGAIN_S = 1.0
OVERLOADED = 429
ITS_OWN_FAULT = (400, 413, 422)
"""Statuses that another attempt would bring again, on any host: the request is too long, or not understood."""
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}
"""Said in so many words, because SGLang and vLLM take what is left open from the model's generation_config.json."""


class HostFailed(Exception):
    """A request that failed in a way that another attempt may not; in a word or two."""


class Refused(Exception):
    """A request that no host would take."""


class NoHost(Exception):
    """Every host is left alone, and has been for long."""


@dataclass
class Host:
    """One endpoint, and how it does."""

    url: str  # without /v1
    running: int = 0  # requests
    failures: int = 0  # in a row
    alone_until: float = 0.0  # time.monotonic(); 0: in use
    plain: bool = False  # it refuses NEUTRAL: some of it is no part of OpenAI's protocol


class Hosts:
    """Hands out requests. Made and used on one event loop."""

    def __init__(self, config: JudgeConfig, key: str | None):
        self._config = config
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._hosts = [Host(url.rstrip("/").removesuffix("/v1")) for url in config.urls]
        self._freed = asyncio.Condition()
        self._none_since: float | None = None  # all are left alone
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        await self._session.close()

    async def anyone(self) -> str:
        """Empty as soon as one host lists its models within start_timeout_s; else why each does not, in one line."""
        tasks = [asyncio.create_task(self._lists_models(host)) for host in self._hosts]
        reasons = []
        for done in asyncio.as_completed(tasks):
            if not (reason := await done):
                for task in tasks:
                    task.cancel()
                return ""
            reasons.append(reason)
        return "; ".join(reasons)

    async def _lists_models(self, host: Host) -> str:
        try:
            await self._json("GET", f"{host.url}/v1/models", self._config.start_timeout_s)
            return ""
        except (HostFailed, Refused) as error:
            return f"{host.url}: {error}"

    async def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The reply; empty where it has none, or was cut at max_tokens.

        Raises:
            HostFailed: try again. Refused: don't. NoHost: all have been left alone for timeout_s.
        """
        config = self._config
        body = {"model": config.model, "messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens}
        async with self._host() as host:
            try:
                reply = _reply(await self._completion(host, body))
            except Refused:
                self._note(host, well=True)
                raise
            except HostFailed as error:
                self._note(host, well=error.args[0] == f"status {OVERLOADED}")
                raise
            self._note(host, well=True)
            return reply

    async def _completion(self, host: Host, body: dict) -> object:
        url, timeout_s = f"{host.url}/v1/chat/completions", self._config.timeout_s
        if not host.plain:
            with suppress(Refused):  # for its length, or for a field that the host does not know
                return await self._json("POST", url, timeout_s, body | NEUTRAL)
        answer = await self._json("POST", url, timeout_s, body)
        host.plain = True
        return answer

    @asynccontextmanager
    async def _host(self) -> AsyncIterator[Host]:
        async with self._freed:
            while (host := self._free()) is None:
                if self._none_since and time.monotonic() - self._none_since > self._config.timeout_s:
                    raise NoHost
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), LOOK_AGAIN_S)
            host.running += 1
        try:
            yield host
        finally:
            host.running -= 1
            async with self._freed:
                self._freed.notify()

    def _free(self) -> Host | None:
        """The least busy host in use; or one that was left alone long enough, for a single request."""
        now = time.monotonic()
        trial = [h for h in self._hosts if h.alone_until and h.alone_until <= now and h.running == 0]
        in_use = [h for h in self._hosts if not h.alone_until and h.running < self._config.concurrency]
        host = trial[0] if trial else min(in_use, key=lambda h: h.running, default=None)
        if host:  # the last of equals next time
            self._hosts.remove(host)
            self._hosts.append(host)
        return host

    def _note(self, host: Host, well: bool) -> None:
        host.failures = 0 if well else host.failures + 1
        if well:
            host.alone_until, self._none_since = 0.0, None
        elif host.failures >= self._config.breaker_failures:
            host.alone_until = time.monotonic() + self._config.breaker_s
            if self._none_since is None and all(h.alone_until for h in self._hosts):
                self._none_since = time.monotonic()

    async def _json(self, method: str, url: str, timeout_s: float, body: dict | None = None) -> object:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            proxy = _proxy_for(url) if self._config.use_proxy else None
            async with self._session.request(method, url, json=body, headers=self._headers, timeout=timeout, proxy=proxy) as response:
                if response.status in ITS_OWN_FAULT:
                    raise Refused(f"status {response.status}")
                if response.status != 200:
                    raise HostFailed(f"status {response.status}")
                return json.loads(await response.read())
        except TimeoutError as error:
            raise HostFailed(f"no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise HostFailed(type(error).__name__) from error
        except ValueError as error:
            raise HostFailed("no JSON") from error


def _proxy_for(url: str) -> str | None:
    """The environment's. Its no_proxy is heeded, ~/.netrc is not: it would replace the key."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def read_key(config: JudgeConfig) -> str | None:
    """The API key. Raises ValueError where its file cannot be read."""
    try:
        return Path(config.key_file).read_text().strip() if config.key_file else None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"verify.judge.key_file: {error}") from error


def _reply(answer: object) -> str:
    """The text of a chat completion."""
    try:
        choice = answer["choices"][0]
        content = choice["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise HostFailed("no chat completion") from error
    return content if isinstance(content, str) and choice.get("finish_reason") != "length" else ""
