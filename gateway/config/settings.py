"""`gateway.yaml` as values.

Every name, bound and default of the file is here, and each is explained in docs/configuration.md. Units stand
in the names. Paths are relative to the folder of the file, which validation gets as its context.
"""

from __future__ import annotations

import base64
import importlib.util
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from gateway.config.addresses import HOST, Address, RedisPlace, address, is_url, redis_place, url
from gateway.config.checking import (
    FLAG,
    LISTED,
    Model,
    RepresentationName,
    Wrong,
    context_of,
    one_of,
    refuse_any,
    text,
    whole,
    wrong,
)
from gateway.config.documents import content_of, reason_of
from gateway.config.mistakes import quoted
from gateway.core.messages import Representation
from gateway.core.peers import Network, is_loopback

DEFAULT_POLICIES = "policies"
ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
SYMMETRIC = "HS256"
_FETCHED = ("jwks_url", "oidc_discovery")
#: What a running gateway holds on to: a change of these, or of what is inside them, takes a restart.
AT_START = (
    *("listen", "tls", "admin_listen", "admin_tls", "edge", "revocations"),
    *("upstream.deadline_ms", "upstream.max_connections", "upstream.max_answer_bytes", "upstream.proxy"),
    *("cache", "memory", "redis_url", "redis", "short_cut", "drain_delay_s", "drain_s"),
    *("log_level", "log_one_hit_in"),
)

T = TypeVar("T")

_URI = re.compile(r"[A-Za-z0-9._~:/?@!$&'()*+,;=%\[\]-]+")
# Without masks written out, and zones of interfaces.
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
# Browsers leave these ports out, so an origin with one would never be met.
_DEFAULT_PORT = r"(?!https://.*:443\Z|http://.*:80\Z)"
_SAFE_URL = "an https URL (plain http for loopback hosts only)"
_PREFIX_OF_KEYS = r"[A-Za-z0-9_.-]{1,64}"
_PREFIX = r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*"


def _public_url(value: object) -> str:
    expected = "an http or https URL without query, fragment and dots in its path"
    origin, path = url(value, expected)
    return origin + path if re.fullmatch(_PREFIX, path) else wrong(expected)


def _origin(value: object) -> str:
    expected = "an https URL without a path, as https://host or https://host:port"
    origin, path = url(value, expected)
    return wrong(expected) if path else origin


def _proxy(value: object) -> str:
    expected = "an http URL without a path, as http://host:port"
    origin, path = url(value, expected)
    return wrong(expected) if path or not origin.startswith("http://") else origin


def _encrypted(origin: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _encrypted_origin(value: object) -> str:
    origin = _origin(value)
    return origin if _encrypted(origin) else wrong(_SAFE_URL)


def _is_fetchable(url: str) -> bool:
    """Whether keys may be fetched from a URL: nobody on the way can change them."""
    sound = is_url(url.partition("?")[0]) and _URI.fullmatch(url)
    return bool(sound) and _encrypted(url)


def _keys_url(value: object) -> str:
    """A URL that is asked as it stands. Some providers have a query in theirs."""
    return value if isinstance(value, str) and _is_fetchable(value) else wrong(_SAFE_URL)


def _network(value: object) -> Network:
    try:
        if isinstance(value, str) and _NETWORK.fullmatch(value):
            return ipaddress.ip_network(value)
    except ValueError:
        pass
    return wrong("an IP address, or a network such as 10.0.0.0/8, with no bit set behind its prefix")


def _path(value: object, info: ValidationInfo) -> Path:
    """A path as it is seen from the folder of `gateway.yaml`."""
    if not isinstance(value, str) or not value or not value.isprintable():
        wrong("the path of a file")
    return Path(context_of(info)["folder"], value)


def is_folder(base: Path, name: object) -> bool:
    """Whether a setting names a folder."""
    try:
        return isinstance(name, str) and name.isprintable() and name != "" and (base / name).is_dir()
    except (OSError, ValueError):
        return False


def _folder(value: object, info: ValidationInfo) -> Path:
    base: Path = context_of(info)["folder"]
    return base / str(value) if is_folder(base, value) else wrong("the path of a folder")


def _readable(max_bytes: int) -> AfterValidator:
    def read(path: Path) -> Path:
        content = content_of(path, max_bytes)
        return path if isinstance(content, bytes) else wrong("the path of a readable file", got=content)

    return AfterValidator(read)


def _one_line(low: int, high: int) -> AfterValidator:
    """A file that holds a key or a token, and at most one newline after it."""
    fitting = re.compile(rb"[!-~]{%d,%d}" % (low, high))

    def read(path: Path) -> Path:
        content = content_of(path, 10_000)
        if isinstance(content, str):
            wrong("the path of a readable file", got=content)
        if not fitting.fullmatch(content.removesuffix(b"\n").removesuffix(b"\r")):
            wrong(
                f"a file with one line of {low} to {high} printable ASCII characters without spaces",
                got="one with something else" if content.strip() else "an empty one",
            )
        return path

    return AfterValidator(read)


def _certificates(path: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError:
        wrong("a PEM file with certificates", got="one with something else")
    return path


def _certificate_of_key(key_file: Path, info: ValidationInfo) -> Path:
    certificate_file = info.data.get("certificate_file")
    if certificate_file is not None:
        try:
            server_context(certificate_file, key_file)
        except (OSError, ValueError):
            wrong("the key, not encrypted, of certificate_file", got="something else")
    return key_file


def _with_its_certificate(key_file: Path | None, info: ValidationInfo) -> Path | None:
    if "certificate_file" not in info.data or key_file is None:
        if info.data.get("certificate_file") is not None:
            wrong("key_file beside certificate_file", got="none")
        return key_file
    if info.data["certificate_file"] is None:
        wrong("certificate_file beside it", got="none")
    return _certificate_of_key(key_file, info)


def _sealing_key(path: Path) -> Path:
    # First, as reading what is no regular file could take for ever.
    if isinstance(content := content_of(path, 10_000), str):
        wrong("the path of a readable file", got=content)
    try:
        sealing_key(path)
    except (OSError, ValueError):
        got = "one with something else" if content.strip() else "an empty one"
        wrong("a file with one line: 32 bytes in base64 (openssl rand -base64 32)", got=got)
    return path


def sealing_key(path: Path) -> bytes:
    """The 32 bytes that are in a file in base64. Raises OSError or ValueError."""
    content = path.read_bytes()
    key = base64.b64decode(content.removesuffix(b"\n").removesuffix(b"\r"), validate=True)
    if len(key) != 32:
        raise ValueError(f"{path}: expected 32 bytes in base64, got {len(key)}")
    return key


def _with_its_library(place: RedisPlace) -> RedisPlace:
    if importlib.util.find_spec("redis") is None:
        wrong("the extra `redis` to be installed (pip install 'chat-gateway[redis]')", got="none")
    return place


def server_context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate. Raises OSError or ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An empty password, or the library would ask for one on the terminal.
    context.load_cert_chain(certificate_file, key_file, password="")
    return context


def _journal(path: Path) -> Path:
    """A file that the gateway writes, and sometimes replaces: its folder has to be writable too."""
    try:
        unfit = _unfit_as_journal(path)
    except OSError as error:
        unfit = reason_of(error)
    return wrong("the path of a file that can be read and written, or made", got=unfit) if unfit else path


def _unfit_as_journal(path: Path) -> str | None:
    if not path.parent.is_dir():
        return "one in no folder"
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return "one in a folder that cannot be written"
    if not path.exists():
        return "a link to nothing" if path.is_symlink() else None
    if not path.is_file():
        return "a folder" if path.is_dir() else "something that is no file"
    return None if os.access(path, os.R_OK | os.W_OK, effective_ids=True) else "one that cannot be"


# What must fit together is checked where the last field of those involved stands: `info.data` has the others,
# but only those that are right by themselves, so that one mistake hides no other.


def _two_listeners(admin_listen: Address, info: ValidationInfo) -> Address:
    if admin_listen == info.data.get("listen") and admin_listen.port:
        wrong("another address than listen has", got=quoted(str(admin_listen)))
    return admin_listen


def _one_way(discover: bool, info: ValidationInfo) -> bool:
    upstream = info.data.get("upstream")
    if "upstream" in info.data and (upstream is None) != discover:
        wrong("either upstream or discover: true", got="both" if upstream else "neither", beside=())
    return discover


def _leave_for_plain_http(allowed: bool, info: ValidationInfo) -> bool:
    upstream = info.data.get("upstream")
    if upstream and not allowed and not _encrypted(upstream):
        expected = "an https URL, or allow_plain_http: true (http to loopback hosts needs none)"
        wrong(expected, got=quoted(upstream), beside=("upstream",))
    return allowed


def _one_kind(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    if SYMMETRIC in algorithms and set(algorithms) != {SYMMETRIC}:
        wrong("HS256 alone, or public-key algorithms only", got="both")
    return algorithms


def _one_source(secret_file: Path | None, info: ValidationInfo) -> Path | None:
    if not {"algorithms", "jwks", *_FETCHED} <= info.data.keys():
        return secret_file
    sources = {**{name: info.data[name] for name in ("jwks", *_FETCHED)}, "secret_file": secret_file}
    given = [name for name, source in sources.items() if source]
    symmetric = SYMMETRIC in info.data["algorithms"]
    if len(given) != 1 or (given == ["secret_file"]) != symmetric:
        wrong(
            "secret_file alone, as the algorithm is HS256"
            if symmetric
            else "one of jwks, jwks_url and oidc_discovery: true, as the algorithms use public keys",
            got=" and ".join(given) or "none",
            beside=(),
        )
    return secret_file


def _at_its_issuer(discovery: bool, info: ValidationInfo) -> bool:
    issuer = info.data.get("issuer")
    if discovery and issuer is not None and ("?" in issuer or not _is_fetchable(issuer)):
        wrong(f"{_SAFE_URL}, as oidc_discovery asks there", got=quoted(issuer), beside=("issuer",))
    return discovery


def _for_a_url(value: T, info: ValidationInfo) -> T:
    """Refuse what is said about fetching keys where none are fetched. Defaults don't come here."""
    if set(_FETCHED) <= info.data.keys() and not any(info.data[name] for name in _FETCHED):
        wrong("jwks_url or oidc_discovery: true beside it", got="neither")
    return value


def _not_before_refresh(max_stale_s: int, info: ValidationInfo) -> int:
    refresh_s = info.data.get("refresh_s")
    if refresh_s is not None and max_stale_s < refresh_s:
        wrong(f"no less than refresh_s ({refresh_s})")
    return max_stale_s


def _another_file(journal: Path | None, info: ValidationInfo) -> Path | None:
    file = info.data.get("file")
    if journal and file and os.path.realpath(journal) == os.path.realpath(file):
        wrong("another file than revocations.file", got="the same")
    return journal


def _tls_where_it_is_spoken(redis: Redis, info: ValidationInfo) -> Redis:
    place = info.data.get("redis_url")
    if place is not None and not place.tls:
        given = (name for name in ("ca_file", "certificate_file") if getattr(redis, name) is not None)
        expected = "rediss in redis_url, as this is for TLS"
        refuse_any(Wrong(expected, "redis without TLS", (name,)) for name in given)
    return redis


def _stale_in_time(stale_after_ms: int, info: ValidationInfo) -> int:
    deadline_ms = info.data.get("deadline_ms")
    if deadline_ms is not None and stale_after_ms >= deadline_ms:
        wrong(f"less than deadline_ms ({deadline_ms})")
    return stale_after_ms


Host = Annotated[
    str,
    text("a host name in lower case, or *. and a domain", rf"(?=[^A-Z]+\Z)(?:\*\.)?{HOST}"),
]
HostName = Annotated[str, text("a host name in lower case", rf"(?=[^A-Z]+\Z){HOST}")]
Hosts = Annotated[tuple[Host, ...], LISTED, Field(min_length=1)]
AccountId = Annotated[str, text("an account id of 1 to 64 letters and digits", r"[A-Za-z0-9]{1,64}")]
Name = Annotated[str, text("a text of 1 to 256 printable characters", r".{1,256}")]
Origin = Annotated[
    str,
    text(
        "an origin, exactly as browsers send it: scheme://host or scheme://host:port",
        _DEFAULT_PORT + rf"(?=[^A-Z]+\Z)[a-z][a-z0-9+.-]*://(?:{HOST}|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?",
    ),
]
File = Annotated[Path, PlainValidator(_path), _readable(1_000_000)]
AppKeyFile = Annotated[Path, PlainValidator(_path), _one_line(1, 256)]
FOR_A_URL = AfterValidator(_for_a_url)
#: For fields that are checked together with others, also when they are left out.
ALWAYS = Field(validate_default=True)


class Tls(Model):
    """What a listener shows of itself: a chain of certificates, its own first, and its key."""

    certificate_file: Annotated[File, AfterValidator(_certificates)]
    key_file: Annotated[File, AfterValidator(_certificate_of_key)]


class Edge(Model):
    """What a client's connection may bring, and how long it may take."""

    max_head_bytes: Annotated[int, whole(1_024, 65_536)] = 16_384
    max_fields: Annotated[int, whole(10, 1_000)] = 100
    max_target_bytes: Annotated[int, whole(256, 65_536)] = 8_192
    head_ms: Annotated[int, whole(100, 60_000)] = 5_000
    body_ms: Annotated[int, whole(100, 300_000)] = 10_000
    # Longer than the idle time of most load balancers: they close first, and never write to a dead peer.
    idle_ms: Annotated[int, whole(100, 3_600_000)] = 75_000
    send_ms: Annotated[int, whole(100, 300_000)] = 10_000
    max_connections: Annotated[int, whole(1, 1_000_000)] = 10_000
    max_connections_per_peer: Annotated[int, whole(1, 1_000_000)] = 1_000


class Overload(Model):
    """From when on the gateway refuses requests, those of lower priority first."""

    max_requests: Annotated[int, whole(10, 100_000)] = 4_000
    lag_ms: Annotated[int, whole(10, 5_000)] = 100


class Budget(Model):
    """What the gateway may ask of one account's upstream, and who waits how long for it.

    `reserve_percent` is what clients of low priority leave free.
    """

    per_second: Annotated[int, whole(1, 10_000)] = 200
    burst: Annotated[int, whole(1, 10_000)] = 50
    in_flight: Annotated[int, whole(1, 10_000)] = 100
    queue: Annotated[int, whole(1, 100_000)] = 50
    # No longer: a chat would die of it.
    wait_ms: Annotated[int, whole(10, 5_000)] = 1_000
    reserve_percent: Annotated[int, whole(0, 90)] = 20


class Account(Model):
    """One account of the chat service, with a fixed upstream or one that is discovered."""

    upstream: Annotated[str | None, PlainValidator(_origin)] = None
    discover: Annotated[bool, FLAG, AfterValidator(_one_way), ALWAYS] = False
    app_key_file: AppKeyFile
    next_app_key_file: AppKeyFile | None = None
    allow_plain_http: Annotated[bool, FLAG, AfterValidator(_leave_for_plain_http), ALWAYS] = False
    budget: Budget | None = None


class Issuer(Model):
    """Whose tokens are believed, and how they are verified.

    The keys come from exactly one of `jwks`, `jwks_url`, `oidc_discovery` and `secret_file`.
    """

    issuer: Name
    audience: Name
    algorithms: Annotated[
        tuple[Annotated[str, one_of((*ASYMMETRIC, SYMMETRIC))], ...],
        LISTED,
        Field(min_length=1),
        AfterValidator(_one_kind),
    ]
    jwks: File | None = None
    jwks_url: Annotated[str, PlainValidator(_keys_url)] | None = None
    oidc_discovery: Annotated[bool, FLAG, AfterValidator(_at_its_issuer)] = False
    secret_file: Annotated[File | None, AfterValidator(_one_source), ALWAYS] = None
    ca_file: Annotated[File, AfterValidator(_certificates), FOR_A_URL] | None = None
    bearer_token_file: Annotated[Path, PlainValidator(_path), _one_line(1, 8_192), FOR_A_URL] | None = None
    refresh_s: Annotated[int, whole(10, 86_400), FOR_A_URL] = 300
    cooldown_s: Annotated[int, whole(1, 300), FOR_A_URL] = 10
    max_stale_s: Annotated[int, whole(60, 604_800), FOR_A_URL, AfterValidator(_not_before_refresh)] = 86_400
    proxy: Annotated[str, PlainValidator(_proxy), FOR_A_URL] | None = None
    token_type: Annotated[str, one_of(("any", "at+jwt"))] = "any"  # noqa: S105 - no password
    client_claim: Annotated[str, text("a text of 1 to 128 printable characters", r".{1,128}")] | None = None
    leeway_s: Annotated[int, whole(0, 60)] = 0


class FailedTokens(Model):
    """How many tokens that are not accepted one peer address may send."""

    per_minute: Annotated[int, whole(1, 100_000)] = 60
    burst: Annotated[int, whole(1, 100_000)] = 60


class Revocations(Model):
    """Tokens that are refused although they are sound: `file` is the operator's, `journal` the gateway's."""

    file: Annotated[Path, PlainValidator(_path), _readable(67_108_864)] | None = None
    journal: (
        Annotated[Path, PlainValidator(_path), AfterValidator(_journal), AfterValidator(_another_file)] | None
    ) = None


class Discovery(Model):
    """The vendor's domain service, for accounts with `discover: true`."""

    url: Annotated[str, PlainValidator(_encrypted_origin)] = "https://api.liveperson.net"
    allowed_domains: Hosts = ("*.liveperson.net",)


class Upstream(Model):
    """How long and how much the gateway asks of the upstream."""

    # Who joins a fetch has its answer when it lands, as old as the deadline at most. Served later than 8 s
    # after it was asked for, it would outlast the silence that a chat with the usual timeout can bear.
    deadline_ms: Annotated[int, whole(100, 8_000)] = 5_000
    stale_after_ms: Annotated[int, whole(1, 8_000), AfterValidator(_stale_in_time), ALWAYS] = 250
    max_connections: Annotated[int, whole(1, 10_000)] = 100
    max_answer_bytes: Annotated[int, whole(65_536, 67_108_864)] = 8_388_608
    max_pause_ms: Annotated[int, whole(1_000, 5_000)] = 5_000
    ca_file: Annotated[File, AfterValidator(_certificates)] | None = None
    proxy: Annotated[str, PlainValidator(_proxy)] | None = None
    refuse_other_session_key: Annotated[bool, FLAG] = False


class Cache(Model):
    """How much is kept."""

    max_bytes: Annotated[int, whole(1_048_576, 17_179_869_184)] = 67_108_864


class Memory(Model):
    """How much is remembered: tokens that were verified, and grants for the short cut."""

    tokens_bytes: Annotated[int, whole(1_048_576, 17_179_869_184)] = 67_108_864
    grants_bytes: Annotated[int, whole(1_048_576, 17_179_869_184)] = 134_217_728


class Cors(Model):
    """Which origins may read answers in browsers; none by default."""

    origins: Annotated[tuple[Origin, ...], LISTED] = ()
    max_age_s: Annotated[int, whole(0, 86_400)] = 600


class Admin(Model):
    """Who may use the private listener, and by which names it may be called."""

    token_file: Annotated[Path, PlainValidator(_path), _one_line(16, 256)] | None = None
    open_metrics: Annotated[bool, FLAG] = True
    hosts: Annotated[tuple[HostName, ...], LISTED] = ()


class Redis(Model):
    """How replicas share what they have in common, at `redis_url`.

    Passwords and keys are files with one line each.
    """

    username: Name | None = None
    password_file: Annotated[Path, PlainValidator(_path), _one_line(1, 1_024)] | None = None
    sentinel_username: Name | None = None
    sentinel_password_file: Annotated[Path, PlainValidator(_path), _one_line(1, 1_024)] | None = None
    ca_file: Annotated[File, AfterValidator(_certificates)] | None = None
    certificate_file: Annotated[File, AfterValidator(_certificates)] | None = None
    key_file: Annotated[File | None, AfterValidator(_with_its_certificate), ALWAYS] = None
    prefix: Annotated[str, text("1 to 64 letters, digits, dots, dashes and underscores", _PREFIX_OF_KEYS)] = (
        "chat-gateway"
    )
    encryption_key_file: Annotated[Path, PlainValidator(_path), AfterValidator(_sealing_key)] | None = None
    deadline_ms: Annotated[int, whole(5, 1_000)] = 40
    lease_ms: Annotated[int, whole(200, 5_000)] = 1_000
    exact_limits_alone: Annotated[str, one_of(("per_replica", "deny", "allow"))] = "per_replica"


class Push(Model):
    """How streams and long polls are kept."""

    heartbeat_ms: Annotated[int, whole(500, 60_000)] = 5_000
    send_ms: Annotated[int, whole(500, 60_000)] = 5_000
    max_wait_s: Annotated[int, whole(0, 300)] = 30


class Settings(Model):
    """All of `gateway.yaml`."""

    listen: Annotated[Address, PlainValidator(address)] = Address("127.0.0.1", 8080)
    tls: Tls | None = None
    admin_listen: Annotated[
        Address,
        PlainValidator(address),
        AfterValidator(_two_listeners),
        Field(default="127.0.0.1:8081", validate_default=True),
    ]
    admin_tls: Tls | None = None
    admin: Admin = Admin()
    edge: Edge = Edge()
    public_url: Annotated[str, PlainValidator(_public_url)]
    policies: Annotated[Path, PlainValidator(_folder), Field(default=DEFAULT_POLICIES, validate_default=True)]
    accounts: Annotated[Mapping[AccountId, Account], Field(min_length=1)]
    issuers: Annotated[tuple[Issuer, ...], LISTED, Field(min_length=1)]
    failed_tokens: FailedTokens = FailedTokens()
    revocations: Revocations = Revocations()
    trusted_proxies: Annotated[tuple[Annotated[Network, PlainValidator(_network)], ...], LISTED] = ()
    discovery: Discovery = Discovery()
    link_hosts: Annotated[tuple[Host, ...], LISTED] = ("*.liveperson.net",)
    upstream: Upstream = Upstream()
    budget: Budget = Budget()
    overload: Overload = Overload()
    push: Push = Push()
    cache: Cache = Cache()
    memory: Memory = Memory()
    redis_url: (
        Annotated[RedisPlace, PlainValidator(redis_place), AfterValidator(_with_its_library)] | None
    ) = None
    redis: Annotated[Redis, AfterValidator(_tls_where_it_is_spoken)] = Redis()
    short_cut: Annotated[bool, FLAG] = True
    max_body_bytes: Annotated[int, whole(1_024, 8_388_608)] = 262_144
    default_representation: RepresentationName = Representation.JSON
    cors: Cors = Cors()
    reload_s: Annotated[int, whole(1, 3_600)] = 2
    drain_delay_s: Annotated[int, whole(0, 300)] = 5
    drain_s: Annotated[int, whole(0, 300)] = 10
    log_level: Annotated[str, one_of(("debug", "info", "warning", "error"))] = "info"
    log_one_hit_in: Annotated[int, whole(0, 1_000_000)] = 1

    def budget_of(self, account: str) -> Budget:
        """The budget of an account: its own, or the common one."""
        return self.accounts[account].budget or self.budget


def needs_restart(old: Settings, new: Settings) -> tuple[str, ...]:
    """What has changed and is only read at the start, by its name in AT_START."""
    return tuple(name for name in AT_START if attrgetter(name)(old) != attrgetter(name)(new))
