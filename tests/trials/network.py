"""Trials of networks and hosts: proxies, addresses, ports, what another job's launcher has left, hosts that are cut off."""

from pathlib import Path

from tests.hosts import why_none
from tests.trials.prepare import file, free_port, listener, nothing_came, proxy, trained
from tests.trials.trial import DEMO, RUN, RUN_S, TRAIN, Trial, refused, tested, works

JUDGE = f"{TRAIN} verify=rule_then_judge verify.judge.urls=[http://judge.invalid] verify.judge.model=m verify.judge.start_timeout_s=5"
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23999"}
PAIR = ALONE | {"WORLD_SIZE": "2"}


def past_the_proxy(folder: Path) -> str:
    return nothing_came(folder) or trained(folder)


def left_over(name: str, says: str, variables: dict[str, str], words: str = "", **more) -> Trial:
    return refused(f"left over from another job: {name}", f"{TRAIN} {words}", says, environment=variables, **more)


def url(words: str) -> Trial:
    return refused(f"an address without http:// ({words.partition('=')[0]})", f"{TRAIN} {words}", "is no URL; http://HOST:PORT ")


TRIALS = [
    works(
        "a proxy for everything and a netrc with a default entry",
        RUN,
        "step 2/2",
        file("netrc", "default login x password y\n"),
        environment={"NETRC": "netrc", "no_proxy": "", "NO_PROXY": ""},
        beside=proxy,
        then=past_the_proxy,
    ),
    works(
        "doctor: a proxy",
        f"megatron-oreal doctor {DEMO} parallel.dp=1",
        "proxy .*calls to engines never use it, nor does the judge",
        beside=proxy,
        then=nothing_came,
    ),
    refused("a judge that only a proxy reaches", JUDGE, "verify.judge.use_proxy=true", status=1, beside=proxy, then=nothing_came),
    refused("a judge through a proxy that refuses", f"{JUDGE} verify.judge.use_proxy=true", "status 503", status=1, beside=proxy),
    url("rollout.placement=external 'rollout.urls=[127.0.0.1:30000]'"),
    url("rollout.router=127.0.0.1:30000"),
    url("verify=rule_then_judge verify.judge.model=m 'verify.judge.urls=[localhost]'"),
    refused(
        "an engine at an IPv6 address that does not answer",
        f"{RUN} rollout.placement=external 'rollout.urls=[\"http://[::1]:9\"]' rollout.ready_timeout_s=3",
        r"rollout.urls: http://\[::1\]:9 does not answer /health within 3 s",
        status=1,
    ),
    works(
        "IPv6 alone",
        f"{RUN} parallel=auto rollout.bind=::1",
        "step 2/2",
        environment=ALONE | {"MASTER_ADDR": "::1"},
        then=trained,
    ),
    refused(
        "MASTER_PORT taken",
        f"MASTER_PORT=$PORT {TRAIN}",
        r"^error \(rank 0\): MASTER_PORT=\d+ cannot be listened at here \(it is in use\); export another one",
        environment=PAIR,
        beside=listener,
    ),
    refused(
        "a stranger who listens where rank 0 should",
        f"MASTER_PORT=$PORT {TRAIN} parallel.timeout_s=5 rollout.sync_timeout_s=5",
        r"^error \(rank 1\): rank 1 waited in vain for rank 0 at",
        status=1,
        environment=PAIR | {"RANK": "1"},
        beside=listener,
    ),
    refused(
        "left over from another job: all of the variables",
        f"MASTER_PORT=$PORT {TRAIN} parallel.timeout_s=12 rollout.sync_timeout_s=12",
        r"^error \(rank 0\): rank 0 waited in vain for rank 1 at .*WORLD_SIZE=2.* are set; left over",
        status=1,
        environment=PAIR,
        beside=free_port,
    ),
    left_over("RANK and WORLD_SIZE", "RANK=0, WORLD_SIZE=2 are set, but not MASTER_ADDR and MASTER_PORT", {"RANK": "0", "WORLD_SIZE": "2"}),
    left_over("RANK", "RANK=0 is set, but not WORLD_SIZE", {"RANK": "0"}),
    left_over("RANK=x", "RANK=x", {"RANK": "x"}),
    left_over("RANK beyond WORLD_SIZE", "RANK=2 must be below WORLD_SIZE=2", {"RANK": "2", "WORLD_SIZE": "2"}),
    left_over("another layout's", "world size 1 is not .*are set; left over", ALONE),
    left_over(
        "a MASTER_ADDR that nobody has",
        "in vain for rank 0 at nowhere.invalid",
        PAIR | {"RANK": "1", "MASTER_ADDR": "nowhere.invalid"},
        "parallel.timeout_s=5 rollout.sync_timeout_s=5",
        status=1,
    ),
    works(
        "SLURM_NTASKS of a shell of salloc",
        f"{RUN} mode=rollout_only record=true",
        "step 2/2",
        environment={"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"},
    ),
    tested("ports of 480 engines at one time", "tests/engines/test_server.py -k held_ports"),
    tested(
        "a launcher killed alone, 200 requests in flight",
        "tests/rollout/test_faults.py -k two_hundred_requests",
    ),
    tested(
        "a second host cut off in rollout, step, sync and save", "tests/test_hosts.py -k both_sides", why_not=why_none, deadline_s=2 * RUN_S
    ),
    tested(
        "hosts whose names mean 127.0.1.1, docker0 first, IPv4 and IPv6",
        "tests/test_hosts.py -k names_mean_themselves",
        why_not=why_none,
        deadline_s=2 * RUN_S,
    ),
    tested("doctor: two such hosts", "tests/test_hosts.py -k doctor", why_not=why_none),
]
