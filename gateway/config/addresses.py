"""Where others are, as settings say it: hosts with ports, URLs, and where Redis is."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from gateway.config.checking import wrong

HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
_AUTHORITY = re.compile(rf"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>{HOST}))(?::(?P<port>[0-9]{{1,5}}))?")
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>(?:/[^?#]*)?)")
_REDIS_URL = re.compile(
    r"redis(?P<tls>s?)(?P<sentinel>\+sentinel)?://(?P<hosts>[^/?#@]*)(?:/(?P<path>[A-Za-z0-9_./-]*))?"
)
_MASTER = r"[A-Za-z0-9_.-]{1,64}"
#: What their servers listen on (https://redis.io/docs).
_REDIS_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the system choose; an IPv6 host stands here without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """Where Redis is: at the only address, or where the Sentinels at these say that `master` is."""

    tls: bool
    addresses: tuple[Address, ...]
    master: str | None
    database: int


def authority(value: str) -> tuple[str, int | None] | None:
    """Host, without brackets, and port; None if it is not one of these (RFC 3986 §3.2)."""
    found = _AUTHORITY.fullmatch(value)
    if found is None or int(found["port"] or 0) > 65535 or (found["six"] and not _is_ipv6(found["six"])):
        return None
    return found["six"] or found["name"], int(found["port"]) if found["port"] else None


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def address(value: object) -> Address:
    """A host with its port."""
    found = authority(value) if isinstance(value, str) else None
    if found is None or found[1] is None:
        wrong("host:port, with an IPv6 host in brackets")
    return Address(found[0], found[1])


def is_url(value: str) -> bool:
    """Whether that is an http or https URL."""
    found = _URL.fullmatch(value)
    return found is not None and authority(found["authority"]) is not None


def url(value: object, expected: str) -> tuple[str, str]:
    """The origin, in lower case, and the path of a URL that has no user, query or fragment."""
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    if found is None or authority(found["authority"]) is None:
        wrong(expected)
    return f"{found['scheme']}://{found['authority'].lower()}", found["path"].rstrip("/")


def redis_place(value: object) -> RedisPlace:
    """Where Redis is. Users and passwords have settings of their own, and do not stand in a URL."""
    place = _redis_place(value) if isinstance(value, str) else None
    return place or wrong(
        "redis://host:port/database or redis+sentinel://host:port,host:port/master/database, rediss with TLS,"
        " without user, password and query",
        got="a URL with a user or password" if isinstance(value, str) and "@" in value else None,
    )


def _redis_place(value: str) -> RedisPlace | None:
    found = _REDIS_URL.fullmatch(value)
    if found is None:
        return None
    port = _SENTINEL_PORT if found["sentinel"] else _REDIS_PORT
    hosts = [authority(host) for host in found["hosts"].split(",")]
    addresses = tuple(Address(host[0], port if host[1] is None else host[1]) for host in hosts if host)
    path = (found["path"] or "").split("/")
    master = path.pop(0) if found["sentinel"] else None
    database = "/".join(path) or "0"
    fits = len(addresses) == len(hosts) and all(address.port for address in addresses)
    fits = fits and (master is not None or len(hosts) == 1)
    named = master is None or re.fullmatch(_MASTER, master)
    if not fits or not named or not re.fullmatch(r"[0-9]{1,3}", database):
        return None
    return RedisPlace(found["tls"] == "s", addresses, master, int(database))
