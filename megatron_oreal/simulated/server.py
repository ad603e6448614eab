"""HTTP before a simulated engine: the calls of SGLang 0.5.21 that this project makes, with its answers' form. Weights are not simulated."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from megatron_oreal.simulated.answers import Answers
from megatron_oreal.simulated.clock import Clock
from megatron_oreal.simulated.engine import Engine, Finish, Sequence

POLL_S = 0.01
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ENCODE = msgspec.json.Encoder().encode


class EngineServer:
    """One engine's server."""

    def __init__(self, engine: Engine, answers: Answers, clock: Clock, context: int, tp: int, key: str | None = None):
        """`context`: most tokens of a sequence; `key`: wanted with every call."""
        self._engine, self._answers, self._clock = engine, answers, clock
        self._context, self._tp, self._key = context, tp, key

    def app(self) -> web.Application:
        """What answers; the engine serves as long as it runs."""
        app = web.Application(middlewares=[self._known], client_max_size=1 << 26)
        app.add_routes([web.get(path, handler) for path, handler in self._reads().items()])
        app.add_routes([web.post(path, handler) for path, handler in self._calls().items()])
        app.cleanup_ctx.append(self._serving)
        return app

    async def _serving(self, _: web.Application):
        task = asyncio.create_task(self._engine.serve())
        yield
        task.cancel()

    @web.middleware
    async def _known(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    def _reads(self) -> dict[str, Handler]:
        return {"/health": self._health, "/model_info": self._model_info, "/server_info": self._server_info, "/figures": self._figures}

    def _calls(self) -> dict[str, Handler]:
        nothing = ("/release_memory_occupation", "/resume_memory_occupation")
        updates = ("/begin_weight_update", "/end_weight_update", "/update_weights_from_tensor", "/update_weights_from_disk")
        return {
            "/generate": self._generate,
            "/abort_request": self._abort,
            "/pause_generation": self._pause,
            "/continue_generation": self._continue,
            "/flush_cache": self._flush,
            "/update_weight_version": self._rename,
            **dict.fromkeys(nothing, self._nothing),
            **dict.fromkeys(updates, self._update),
        }

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self._engine.paused else 200)

    async def _model_info(self, _: web.Request) -> web.Response:
        return web.json_response({"is_generation": True, "weight_version": self._engine.version})

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"tp_size": self._tp, "version": "0.5.21", "simulated": True})

    async def _figures(self, request: web.Request) -> web.Response:
        """What it has done by now; with a moment in the query (`at`), by then. SGLang has no such call."""
        await self._clock.wait_until(float(request.query.get("at", 0)))
        figures = {"now": self._clock.now} | asdict(self._engine.figures)
        return web.Response(body=_ENCODE(figures), content_type="application/json")

    async def _abort(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("abort_all"):
            await self._engine.order(lambda: self._engine.abort(lambda _: True))
        return web.Response()

    async def _pause(self, request: web.Request) -> web.Response:
        mode = (await request.json()).get("mode", "abort")
        await self._engine.order(lambda: self._engine.pause(mode))
        return web.json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def _continue(self, _: web.Request) -> web.Response:
        await self._engine.order(self._engine.go_on)
        return web.json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def _flush(self, request: web.Request) -> web.Response:
        """With a timeout in the query it waits for an idle engine."""
        tries = int(float(request.query.get("timeout", 0)) / POLL_S)
        while not (done := await self._engine.order(self._engine.flush)) and tries > 0:
            tries -= 1
            await asyncio.sleep(POLL_S)
        return web.Response(status=200 if done else 400, text="Cache flushed.\n" if done else "Flush cache failed.\n")

    async def _rename(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("abort_all_requests", True):
            await self._engine.order(lambda: self._engine.abort(lambda _: True))
        version = asked["new_version"]
        await self._engine.order(lambda: self._engine.rename(version))
        return web.json_response({"success": True, "message": f"Weight version updated to {version}", "new_version": version})

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.json_response(None)

    async def _update(self, request: web.Request) -> web.Response:
        version = (await request.json()).get("weight_version")
        if version is not None:
            await self._engine.order(lambda: self._engine.rename(version))
        return web.json_response({"success": True, "message": "Success"})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        """A stream of server-sent events: a sign of life of each sample, and its whole when it ends."""
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if refused := self._refused(body):
            await response.write(b"data: " + _ENCODE({"error": refused}) + b"\n\n")
        else:
            await self._stream(body, response)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream(self, body: dict, response: web.StreamResponse) -> None:
        told: asyncio.Queue[tuple[Sequence, Finish | None]] = asyncio.Queue()
        own = self._sequences(body, lambda sequence, finish: told.put_nowait((sequence, finish)))
        for sequence in own:
            self._engine.ask(sequence)
        left = len(own)
        try:
            while left:
                sequence, finish = await told.get()
                left -= finish is not None
                await response.write(b"data: " + _ENCODE(self._event(sequence, finish, len(own))) + b"\n\n")
        finally:
            if left:  # nobody listens any more
                await self._engine.order(lambda: self._engine.abort(lambda sequence: sequence in own))

    def _refused(self, body: dict) -> dict[str, Any] | None:
        """What SGLang says of a request that is too long."""
        wanted = [(len(ids), parameters.get("max_new_tokens", 128)) for ids, parameters in _each(body)]
        prompt, room = max(wanted, key=sum)
        if prompt + room <= self._context:
            return None
        message = f"The input ({prompt} tokens) and {room} new tokens are longer than the model's context length ({self._context} tokens)."
        return {"message": message, "type": "invalid_request_error", "code": 400, "retryable": False}

    def _sequences(self, body: dict, tell: Callable[[Sequence, Finish | None], None]) -> list[Sequence]:
        begun = []
        for input_ids, parameters in _each(body):
            asked = self._answers.asked(input_ids)
            for _ in range(parameters.get("n", 1)):
                answer = self._answers.begin(asked)
                wanted, room = answer.length - asked.begun, parameters.get("max_new_tokens", 128)
                ends, index = "stop" if wanted <= room else "length", len(begun)
                begun.append(Sequence(asked.prompt + asked.begun, max(1, min(wanted, room)), 0, asked, answer, tell, ends, index))
        return begun

    def _event(self, sequence: Sequence, finish: Finish | None, samples: int) -> dict[str, Any]:
        first, done = sequence.asked.begun, sequence.done if finish else 1
        last = self._answers.whole(sequence.answer, first, first + done) if finish == "abort" else first + done
        tokens = self._answers.tokens(sequence.answer, first, max(first, last))
        logprobs = self._answers.logprobs(first, first + len(tokens))
        versions = sequence.versions or [(self._engine.version, 0)]
        meta = {
            "id": secrets.token_hex(16),
            "finish_reason": self._reason(finish, len(tokens)),
            "prompt_tokens": sequence.asked.prompt + first,
            "weight_version": versions[-1][0],
            "num_retractions": sequence.retractions,
            "input_token_logprobs": [],
            "output_token_logprobs": [(logprob, token, None) for logprob, token in zip(logprobs, tokens, strict=True)],
            "output_token_logprobs_length": len(tokens),
            "reasoning_tokens": 0,
            "completion_tokens": len(tokens),
            "cached_tokens": sequence.asked.prompt + first - sequence.prefilled,
            "dp_rank": None,
        }
        if finish:
            meta["weight_versions"] = _spans(versions, len(tokens))
        return {"output_ids": tokens, "meta_info": meta} | ({"index": sequence.index} if samples > 1 else {})

    def _reason(self, finish: Finish | None, tokens: int) -> dict[str, Any] | None:
        return {
            None: None,
            "stop": {"type": "stop", "matched": self._answers.stop},
            "length": {"type": "length", "length": tokens},
            "abort": {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None},
        }[finish]


def _each(body: dict) -> list[tuple[list[int], dict]]:
    """Tokens and parameters of what a request asks for: one prompt, or several."""
    ids, parameters = body["input_ids"], body["sampling_params"]
    return list(zip(ids, parameters, strict=True)) if isinstance(parameters, list) else [(ids, parameters)]


def _spans(versions: list[tuple[str, int]], tokens: int) -> list[dict[str, Any]]:
    """As SGLang says which weights made which tokens."""
    ends = [start for _, start in versions[1:]] + [tokens]
    return [{"version": version, "start": start, "end": end} for (version, start), end in zip(versions, ends, strict=True) if end > start]
