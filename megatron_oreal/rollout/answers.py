"""What an engine answers: its stream of server-sent events, read by msgspec into what is needed of it."""

from collections.abc import AsyncIterator
from typing import TypedDict

import aiohttp
import msgspec


class FinishReason(TypedDict, total=False):
    """Why an engine ended a sample."""

    type: str  # "stop", "length" or "abort"
    matched: int | str | None  # what it stopped at


class Entry(msgspec.Struct, array_like=True, gc=False):
    """Of a token: [log-probability, token, text]. Millions of tuples would keep the garbage collector at work."""

    logprob: float


class Meta(TypedDict, total=False):
    """What an engine says of a sample beside its tokens."""

    finish_reason: FinishReason | None  # None: a sign of life of one that goes on
    output_token_logprobs: list[Entry]  # [response tokens]
    weight_version: str
    cached_tokens: int  # of what it was asked to go on from


class Refusal(TypedDict):
    """In the place of an answer, in a stream that had begun with status 200."""

    code: int
    message: str


class Answer(TypedDict, total=False):
    """An event of an engine's stream, as far as it is read: types are checked as it is decoded, the rest is skipped."""

    output_ids: list[int]  # [response tokens]
    meta_info: Meta
    index: int  # which of the request's samples
    error: Refusal


_EVENTS = msgspec.json.Decoder(Answer)


async def events_of(content: aiohttp.StreamReader) -> AsyncIterator[Answer]:
    """The answers of a stream of server-sent events, up to its end mark.

    Raises:
        ValueError: it is no such stream, or of other types, or it breaks off.
    """
    buffer, seen = bytearray(), 0
    async for chunk in content.iter_any():
        buffer += chunk
        while (end := buffer.find(b"\n\n", seen)) >= 0:
            event = bytes(buffer[:end]).removeprefix(b"data:").strip()
            del buffer[: end + 2]
            seen = 0
            if event == b"[DONE]":
                return
            yield _EVENTS.decode(event)
        seen = max(0, len(buffer) - 1)  # the mark itself may arrive in two pieces
    raise ValueError(f"the answer breaks off: {bytes(buffer[-100:])!r}")


def checked(answer: Answer, version: str | None) -> Answer:
    """One sample, if it is one: token ids with a log-probability each, by the right weights. Of which types, its decoding has checked.

    Raises:
        ValueError, KeyError: anything else.
    """
    meta = answer["meta_info"]
    if len(meta["output_token_logprobs"]) != len(answer["output_ids"]):
        raise ValueError("not one log-probability a token")
    if version is not None and meta["weight_version"] != version:
        raise ValueError(f"it serves version {meta['weight_version']} instead of {version}")
    return answer
