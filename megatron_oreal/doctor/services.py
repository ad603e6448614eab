"""What the run talks to over HTTP that somebody else runs: judge and external engines; and the port at which its ranks meet."""

import asyncio
import os
import socket
from dataclasses import replace

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.doctor.findings import ERROR, LEFT_OUT, OK, WARNING, Findings
from megatron_oreal.engines.abilities import refuse_what_engines_lack
from megatron_oreal.engines.engines import external_engines
from megatron_oreal.network import proxies_of_environment, without_password
from megatron_oreal.verify.config import JudgeConfig
from megatron_oreal.verify.judge.hosts import Hosts, read_key

ANSWERS_WITHIN_S = 10.0


def check_judge(findings: Findings, config: TrainConfig | SftConfig) -> None:
    """Whether its hosts list their models: none is an error, some is a warning."""
    if not config.verify.asks_judge:
        findings.add(OK, "judge", "none is asked (verify.mode=rule)")
        return
    judge = config.verify.judge
    key = findings.try_out("judge", "see verify.judge.key_file", lambda: (read_key(judge),))
    if key is None:
        return
    reasons = [reason for reason in asyncio.run(_silent_hosts(judge, *key)) if reason]
    if not reasons:
        findings.add(OK, "judge", f"{len(judge.urls)} hosts answer")
        return
    level = ERROR if len(reasons) == len(judge.urls) else WARNING
    text = f"{len(reasons)} of {len(judge.urls)} hosts do not answer: {'; '.join(reasons)}"
    through = "; outside of this network: verify.judge.use_proxy=true" if proxies_of_environment() and not judge.use_proxy else ""
    findings.add(level, "judge", text, f"start them, or correct verify.judge.urls{through}")


def check_proxies(findings: Findings, config: TrainConfig) -> None:
    """What a proxy of the environment is used for, and what not: it must see no key of an engine."""
    if not (proxies := proxies_of_environment()):
        return
    named = ", ".join(f"{name}={without_password(url)}" for name, url in sorted(proxies.items()))
    judge = "the judge goes through it" if config.verify.judge.use_proxy else "nor does the judge (verify.judge.use_proxy=false)"
    findings.add(OK, "proxy", f"{named}: calls to engines never use it, {judge}; trackers may")


async def _silent_hosts(judge: JudgeConfig, key: str | None) -> list[str]:
    """Of each host: why it does not answer; empty where it does."""
    timeout = min(judge.start_timeout_s, ANSWERS_WITHIN_S)

    async def reason(url: str) -> str:
        hosts = Hosts(replace(judge, urls=[url], start_timeout_s=timeout), key)
        try:
            return await hosts.anyone()
        finally:
            await hosts.close()

    return await asyncio.gather(*(reason(url) for url in judge.urls))


def check_engines(findings: Findings, config: TrainConfig | SftConfig) -> None:
    """Whether engines that somebody else runs answer, all of them; whether those that are started here can do what is asked."""
    if not config.has_engines:
        return
    if config.rollout.placement != "external":
        findings.try_out("engines", "see megatron_oreal/engines/README.md", refuse_what_engines_lack, config.rollout)
        return
    engines = findings.try_out("engines", "see rollout.admin_key_file", external_engines, config.rollout)
    if engines is None:
        return
    silent = [engine.url for engine in engines if not engine.works(ANSWERS_WITHIN_S)]
    if silent:
        findings.add(ERROR, "engines", f"do not answer: {', '.join(silent)}", "start them, or correct rollout.urls and admin_key_file")
    else:
        findings.add(OK, "engines", f"{len(engines)} external ones answer")


def check_port(findings: Findings) -> bool:
    """Whether the ranks can meet at MASTER_PORT of this host, the job's first. False where something else listens there."""
    port = os.environ.get("MASTER_PORT")
    if port is None:
        findings.add(LEFT_OUT, "port", "MASTER_PORT is not set: ranks started by hand take a free one")
        return True
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # only what listens is in the way, not what has ended
            probe.bind(("", int(port)))
            probe.listen(1)
    except (OSError, ValueError) as error:
        findings.add(ERROR, "port", f"MASTER_PORT={port} cannot be used on this host: {error}", "MASTER_PORT=N sbatch ... with a free one")
        return False
    findings.add(OK, "port", f"MASTER_PORT={port} is free")
    return True
