"""Sampling: prompts in, trajectories out as they finish, so that what comes next overlaps with generation."""

import asyncio
import hashlib
import queue
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.server import Endpoint, ServerError
from megatron_oreal.trajectory import Prompt, Trajectory

CONNECT_ATTEMPTS = 3
RETRY_AFTER_S = 1.0
JOIN_S = 10.0


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled; temperature 0 is greedy."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


class Rollout:
    """Asks one server. `retries` counts the requests that had to be sent again."""

    def __init__(self, config: RolloutConfig, endpoint: Endpoint, tokenizer, seed: int = 0):
        """`seed` matters where rollout.deterministic is set."""
        self._config, self._endpoint, self._tokenizer, self._seed = config, endpoint, tokenizer, seed
        self._stop = tokenizer.encode(config.stop_word, add_special_tokens=False)[0]
        self._sampling = Sampling(config.samples, config.temperature, config.top_p, config.max_new_tokens)
        self.retries = 0

    def generate(self, prompts: Sequence[Prompt], version: int, sampling: Sampling | None = None) -> Iterator[Trajectory]:
        """Trajectories in the order in which they finish; all samples of a question come together.

        One request a question with n samples: the server computes the prompt once, and for a tiny model on CPU the cost of a
        request is that of hundreds of tokens. Where sampling is to be deterministic, one request a sample, each with its own seed.

        Raises:
            ValueError: a prompt that leaves no room for an answer.
            ServerError: the server refused or did not answer in time.
        """
        sampling = sampling or self._sampling
        for prompt in prompts:
            if len(prompt.token_ids) >= self._config.max_total_tokens:
                raise ValueError(f"prompt {prompt.id}: {len(prompt.token_ids)} tokens leave no room for an answer")
        finished: queue.SimpleQueue = queue.SimpleQueue()
        worker = _LoopThread(self._ask_all(prompts, version, sampling, finished), finished)
        try:
            for _ in prompts:
                yield from self._next(finished, len(prompts))
        finally:  # where the caller has lost interest, or a request failed, the server is to stop sampling as well
            worker.cancel()

    def _next(self, finished: queue.SimpleQueue, asked: int) -> list[Trajectory]:
        """The trajectories of the next prompt that is finished; requests have deadlines of their own, this one is above them."""
        rounds = -(-asked // self._config.concurrency) * CONNECT_ATTEMPTS + 1
        try:
            item = finished.get(timeout=rounds * self._config.request_timeout_s)
        except queue.Empty as error:
            raise ServerError(f"{self._endpoint.url}: sampling stands still{self._endpoint.where()}") from error
        if isinstance(item, BaseException):
            raise item
        return item

    async def _ask_all(self, prompts, version, sampling, finished) -> None:
        gate = asyncio.Semaphore(self._config.concurrency)
        timeout = aiohttp.ClientTimeout(total=self._config.request_timeout_s)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._endpoint.headers, connector=connector) as session:

            async def ask(prompt: Prompt) -> None:
                async with gate:
                    answers = await asyncio.gather(*(self._post(session, body, prompt) for body in self._bodies(prompt, sampling)))
                    finished.put(self._trajectories(prompt, version, [answer for some in answers for answer in some]))

            async with asyncio.TaskGroup() as tasks:
                for prompt in prompts:
                    tasks.create_task(ask(prompt))

    def _bodies(self, prompt: Prompt, sampling: Sampling) -> list[dict]:
        """The requests for one prompt's samples."""
        if not self._config.deterministic:
            return [self._body(prompt, sampling, sampling.samples)]
        bodies = [self._body(prompt, sampling, 1) for _ in range(sampling.samples)]
        for index, body in enumerate(bodies):
            name = hashlib.sha256(f"{self._seed}/{prompt.id}/{index}".encode())  # a prompt's id is that of its draw
            body["sampling_params"]["sampling_seed"] = int.from_bytes(name.digest()[:4], "big")
        return bodies

    def _body(self, prompt: Prompt, sampling: Sampling, samples: int) -> dict:
        room = self._config.max_total_tokens - len(prompt.token_ids)
        return {
            "input_ids": prompt.token_ids,
            "return_logprob": True,
            "sampling_params": {
                "n": samples,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": min(sampling.max_new_tokens, room),
                "stop_token_ids": [self._stop],
                "skip_special_tokens": True,
            },
        }

    async def _post(self, session: aiohttp.ClientSession, body: dict, prompt: Prompt) -> list[dict]:
        """The server's answers for one prompt; a connection that breaks is tried again a few times."""
        url = self._endpoint.url + "/generate"
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            try:
                async with session.post(url, json=body) as answer:
                    if answer.status != 200:
                        text = (await answer.text())[:300].strip()
                        raise ServerError(f"{url}: status {answer.status} for prompt {prompt.id}, {text}{self._endpoint.where()}")
                    result = await answer.json()
                    return result if isinstance(result, list) else [result]
            except TimeoutError as error:
                seconds = self._config.request_timeout_s
                raise ServerError(f"{url}: no answer for prompt {prompt.id} within {seconds:.0f} s{self._endpoint.where()}") from error
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                if attempt == CONNECT_ATTEMPTS:
                    raise ServerError(f"{url}: {error} after {attempt} attempts{self._endpoint.where()}") from error
                self.retries += 1
                await asyncio.sleep(RETRY_AFTER_S * attempt)
        raise AssertionError("unreachable")

    def _trajectories(self, prompt: Prompt, version: int, answers: list[dict]) -> list[Trajectory]:
        return [
            Trajectory(
                prompt=prompt,
                index=index,
                token_ids=answer["output_ids"],
                logprobs=[entry[0] for entry in answer["meta_info"]["output_token_logprobs"]],
                text=answer["text"],
                finish=self._finish(answer["meta_info"]["finish_reason"]),
                version=version,
            )
            for index, answer in enumerate(answers)
        ]

    def _finish(self, reason: dict) -> str:
        """The model's other end tokens stop the server too; only the stop word's makes an answer complete (spec, step 1)."""
        return "abort" if reason["type"] == "stop" and reason["matched"] != self._stop else reason["type"]


class _LoopThread(threading.Thread):
    """A coroutine on an event loop of its own; an error goes into `finished`, for the caller's thread to raise."""

    def __init__(self, work: Coroutine, finished: queue.SimpleQueue):
        super().__init__(daemon=True)
        self._finished = finished
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(work)
        self.start()

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except BaseExceptionGroup as group:
            self._finished.put(group.exceptions[0])
        except BaseException as error:
            self._finished.put(error)
        finally:
            self._loop.close()

    def cancel(self) -> None:
        """Stop whatever is still running, and wait for it."""
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(JOIN_S)
