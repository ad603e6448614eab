"""At which address and through which interface this host is reached by others: the kernel's routes know, its own name may not.

A host's name may resolve to 127.0.0.1 or 127.0.1.1, and its first interface may be that of containers (docker0).
"""

import ipaddress
import os
import socket

import psutil

ELSEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses that are nobody's (RFC 5737, RFC 3849): the way there is the default route. Nothing is ever sent."""
DISCARD = 9
LOCALHOST = "127.0.0.1"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def ends_towards(host: str) -> tuple[str, str]:
    """(this host's address as `host` sees it, the address that `host` resolves to here). Raises OSError where no way leads there."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, DISCARD, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # a datagram socket sends nothing, it only looks up the way
        return probe.getsockname()[0], address[0]


def is_loopback(address: str) -> bool:
    """Whether no other host can reach this address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def url_of(address: str, port: int) -> str:
    """Of an HTTP server; an IPv6 address stands in brackets."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def interface_of(address: str) -> str | None:
    """Its name; None where no interface of this host has this address."""
    for name, addresses in psutil.net_if_addrs().items():
        if address in [a.address.partition("%")[0] for a in addresses]:
            return name
    return "lo" if is_loopback(address) else None


def interface_variables(address: str) -> dict[str, str]:
    """What tells gloo and NCCL to use the interface of this address, where the environment does not name one.

    Empty for a loopback address: those that meet there may yet meet others on other hosts, the engines in a sync.
    """
    name = None if is_loopback(address) else interface_of(address)
    named = {GLOO: name, NCCL: f"={name}"} if name else {}  # NCCL: this name, not all that begin with it
    return {variable: value for variable, value in named.items() if variable not in os.environ}


def speak_through(address: str) -> None:
    """From here on this process, and those that it starts, use that interface."""
    os.environ.update(interface_variables(address))


def address_of_this_host(ipv6: bool = False) -> str:
    """Where others find what listens at every address of this host: at gloo's interface, else on the way to MASTER_ADDR, or to anywhere."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    chosen = os.environ.get(GLOO, "").split(",")[0]
    candidates = [a.address for a in psutil.net_if_addrs().get(chosen, ()) if a.family == family]
    for host in (os.environ.get("MASTER_ADDR"), ELSEWHERE[ipv6]):
        try:
            candidates.append(ends_towards(host)[0] if host else "")
        except OSError:
            continue  # no such way
    candidates += [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == family]
    usable = [a for a in candidates if a and (":" in a) == ipv6 and not is_loopback(a) and not a.startswith("fe80")]
    return usable[0] if usable else ("::1" if ipv6 else LOCALHOST)


def proxies_of_environment() -> dict[str, str]:
    """Variable -> value, of those that name a proxy."""
    return {name: value for name, value in os.environ.items() if name.lower() in PROXIES and value}


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    before, at, host = url.rpartition("@")
    return f"{before.partition('://')[0]}://...@{host}" if at else host
