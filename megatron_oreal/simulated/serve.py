"""A process with all of a configuration's engines, simulated; each at a port of its own.

    python -m megatron_oreal.simulated.serve --tokenizer DIR [--speed 20] experiment=oreal_32b

Says their addresses as a list in JSON, and ends with its standard input.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web

from megatron_oreal.data.tokenizer import load_tokenizer, stop_token
from megatron_oreal.plan.compose import compose
from megatron_oreal.plan.config import Planned
from megatron_oreal.plan.engine import engines, sampler
from megatron_oreal.plan.fit import make_plan
from megatron_oreal.plan.operations.sampling import UNEVEN
from megatron_oreal.plan.shapes import architecture_of
from megatron_oreal.simulated.answers import Answers
from megatron_oreal.simulated.clock import Clock, Watched
from megatron_oreal.simulated.engine import Engine
from megatron_oreal.simulated.server import EngineServer

HERE = "127.0.0.1"
CLOSE_S = 1.0
"""For what is still being answered when nobody asks any more."""


def servers(config: Planned, tokenizer, clock: Clock, slower: float) -> list[EngineServer]:
    """All engines of a run, with what the plan says of their memory and their steps."""
    plan = make_plan(config, architecture_of(config.model.path, config.plan.shape), builds=False)
    engine, lengths = sampler(config, plan.model.sizes, plan.engine), config.plan.lengths
    stop = stop_token(tokenizer, config.rollout.stop_word)
    answers = Answers(tokenizer, stop, lengths.median, lengths.spread, config.plan.mixed, config.seed)
    context, tp = config.rollout.max_total_tokens + 1, config.rollout.tp
    return [EngineServer(Engine(engine, slower, clock), answers, clock, context, tp) for _ in range(engines(config))]


@asynccontextmanager
async def listening(served: Sequence[EngineServer], clock: Clock) -> AsyncIterator[list[str]]:
    """Their addresses, at which they answer meanwhile; the clock goes."""
    ticking = asyncio.create_task(clock.run())
    urls, runners = [], [web.AppRunner(one.app(), access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_S) for one in served]
    for runner in runners:
        await runner.setup()
        await web.TCPSite(runner, HERE, 0).start()
        urls.append(f"http://{HERE}:{runner.addresses[0][1]}")
    yield urls
    ticking.cancel()
    for runner in runners:
        await runner.cleanup()


async def _serve_until_closed(served: Sequence[EngineServer], clock: Clock) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    async with listening(served, clock) as urls:
        print(json.dumps(urls), flush=True)
        await ended.wait()


@contextmanager
def in_a_process(tokenizer: Path, speed: float, slower: float, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Their addresses."""
    given = ["--tokenizer", str(tokenizer), "--speed", str(speed), "--slower", str(slower), *overrides]
    command = [sys.executable, "-W", "ignore", "-m", "megatron_oreal.simulated.serve", *given]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline() or "null") or _failed(process)
        finally:
            process.stdin.close()


def _failed(process: subprocess.Popen) -> list[str]:
    raise RuntimeError(f"simulated engines: they ended with status {process.wait()} before they listened; what they said stands above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument(
        "--speed", type=float, default=20.0, help="virtual seconds in a real one, while whoever started this has nothing to do"
    )
    parser.add_argument("--slower", type=float, default=UNEVEN, help="than the operations of a step added up")
    parser.add_argument("overrides", nargs="*", help="as of megatron-oreal plan")
    asked = parser.parse_intermixed_args()
    clock = Clock(asked.speed, Watched(os.getppid()))
    served = servers(compose(asked.overrides), load_tokenizer(asked.tokenizer), clock, asked.slower)
    gc.freeze()  # else every collection goes through what was imported
    asyncio.run(_serve_until_closed(served, clock))


if __name__ == "__main__":
    main()
