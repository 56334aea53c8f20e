"""Keys that an issuer publishes: when they are fetched, what is taken, and how they come over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.access import Claims
from gateway.core.errors import Reason, Refusal
from gateway.core.limits import Rate
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.failures import Failures
from gateway.identity.fetching import Fetcher, Unfetched
from gateway.identity.keys import ALGORITHMS
from gateway.identity.keysets import MAX_BYTES, MAX_KEYS, KeySet, KeySetError, parse_published
from gateway.identity.remote import RemoteKeys, discover
from gateway.identity.tokens import Issuer, Verifier
from tests.proxy import FAILURES, WORDS, Behaviour, hangs, proxying, tunnels_nowhere
from tests.virtual import virtual

Jwk = dict[str, Any]
GetJwk = Callable[..., Jwk]
GetPair = Callable[..., tuple[bytes, bytes]]

ISSUER = "https://issuer.example"
URL = "https://issuer.example/keys"
LISTED = frozenset({"RS256", "ES256", "EdDSA"})
DOWN = Unfetched("expected a connection, got none")


def jwks(*keys: object, **members: object) -> bytes:
    return json.dumps({"keys": keys} | members).encode()


@pytest.fixture
def one(jwk: GetJwk) -> bytes:
    return jwks(jwk("ES256"))


@pytest.fixture
def two(jwk: GetJwk) -> bytes:
    return jwks(jwk("ES256"), jwk("ES256", "other"))


# The schedule, on virtual time.


@dataclass
class Script:
    """An issuer on virtual time: what it says, how long it takes, and when it was asked."""

    said: bytes | Exception
    takes_s: float = 0.0
    asked: list[float] = field(default_factory=list)

    async def __call__(self, url: str) -> bytes:
        assert url == URL
        self.asked.append(now())
        await asyncio.sleep(self.takes_s)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Heard:
    """What a log would say."""

    news: list[KeySet | Exception] = field(default_factory=list)

    def __call__(self, news: KeySet | Exception) -> None:
        self.news.append(news)


def remote(script: Script, heard: Heard | None = None, **changes: Any) -> RemoteKeys:
    settings = {"now": now, "random": lambda: 0.5, "tell": heard or Heard(), **changes}
    return RemoteKeys(ISSUER, URL, LISTED, script, **settings)


@contextlib.asynccontextmanager
async def kept_fresh(keys: RemoteKeys) -> AsyncIterator[RemoteKeys]:
    """The task that an app runs, after its first fetch; nothing is left of it."""
    task = asyncio.create_task(keys.keep_fresh())
    await asyncio.sleep(0.001)
    try:
        yield keys
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert task.cancelled()


@pytest.mark.parametrize(("random", "pause_s"), [(0.0, 270.0), (0.5, 300.0), (1.0, 330.0)])
@virtual
async def test_keys_are_fetched_at_once_and_then_again(one: bytes, random: float, pause_s: float) -> None:
    script = Script(one)
    async with kept_fresh(remote(script, random=lambda: random)) as keys:
        first = keys.current
        assert first is not None
        assert keys.age_s() == pytest.approx(0.001)
        await asyncio.sleep(3 * pause_s)
        assert script.asked == pytest.approx([0.0, pause_s, 2 * pause_s, 3 * pause_s])
        assert (keys.fetches, keys.failures, keys.last_error) == (4, 0, None)
        assert keys.current is first


@virtual
async def test_a_new_pause_counts_from_now_on(one: bytes) -> None:
    script = Script(one)
    keys = remote(script, refresh_s=86_400.0)
    async with kept_fresh(keys):
        await asyncio.sleep(10.0)
        keys.go_by(refresh_s=86_400.0, cooldown_s=1.0, max_stale_s=90_000.0)
        await asyncio.sleep(10.0)
        assert script.asked == [0.0]
        keys.go_by(refresh_s=60.0, cooldown_s=1.0, max_stale_s=90_000.0)
        await asyncio.sleep(130.0)
    # Who shortens a day to a minute does not wait for the end of the day.
    assert script.asked == pytest.approx([0.0, 20.0, 80.0, 140.0], abs=0.01)


@virtual
async def test_a_failed_fetch_is_tried_again_ever_later(one: bytes) -> None:
    script, heard = Script(DOWN), Heard()
    async with kept_fresh(remote(script, heard, refresh_s=20.0)) as keys:
        await asyncio.sleep(75)
        assert keys.age_s() is None
        assert script.asked == pytest.approx([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 51.0, 71.0])
        assert (keys.fetches, keys.failures, keys.last_error) == (8, 8, str(DOWN))
        script.said = one
        await asyncio.sleep(20)
        assert (keys.failures, keys.last_error) == (8, None)
        assert heard.news == [DOWN, keys.current]
        assert isinstance(keys.current, KeySet)
        script.asked.clear()
        script.said = DOWN
        await asyncio.sleep(20)
        # From the first step again.
        assert script.asked == pytest.approx([111.0, 112.0, 114.0])


@virtual
async def test_the_last_good_set_serves_on_while_the_issuer_is_down(one: bytes) -> None:
    script, heard = Script(one), Heard()
    async with kept_fresh(remote(script, heard, max_stale_s=7200.0)) as keys:
        good = keys.current
        script.said = DOWN
        for _ in range(60):
            await asyncio.sleep(60)
            assert keys.current is good is not None
        await asyncio.sleep(3599.9)
        assert keys.current is good
        await asyncio.sleep(0.2)
        assert keys.current is None
        assert keys.age_s() == pytest.approx(7200.101)
        script.said = one
        await keys.renew()
        assert keys.current is good
        # One line for the hours, one for their end.
        assert [type(news) for news in heard.news] == [KeySet, Unfetched, KeySet]


@virtual
async def test_the_age_counts_from_when_the_keys_were_asked_for(one: bytes) -> None:
    keys = remote(Script(one, takes_s=0.8), max_stale_s=60.0)
    await keys.renew()
    assert keys.age_s() == pytest.approx(0.8)
    await asyncio.sleep(59.1)
    assert keys.current is not None
    await asyncio.sleep(0.2)
    assert keys.current is None


@virtual
async def test_a_flood_of_unknown_kids_is_one_fetch_a_cooldown(one: bytes) -> None:
    script = Script(one, takes_s=0.1)
    keys = remote(script, cooldown_s=2.0)
    waits: list[float] = []

    async def renew() -> None:
        began = now()
        await keys.renew()
        waits.append(now() - began)

    async with asyncio.TaskGroup() as flood:
        for number in range(10_000):
            asyncio.get_running_loop().call_at(number / 1000, lambda: flood.create_task(renew()))
        await asyncio.sleep(10)
    assert script.asked == pytest.approx([0.0, 2.0, 4.0, 6.0, 8.0])
    assert len(waits) == 10_000
    assert max(waits) == pytest.approx(0.1)
    assert sum(wait == 0.0 for wait in waits) > 9_000


@virtual
async def test_a_renewal_joins_a_fetch_that_is_under_way(one: bytes, two: bytes) -> None:
    script = Script(one, takes_s=0.5)
    async with kept_fresh(remote(script)) as keys:
        await asyncio.gather(*(keys.renew() for _ in range(10)))
        assert (script.asked, now()) == ([0.0], 0.5)
        assert keys.current is not None
        # Which cost no cooldown.
        script.said = two
        await keys.renew()
        assert (script.asked, now()) == ([0.0, 0.5], 1.0)
        assert len(keys.current.keys) == 2
        await keys.renew()
        assert (len(script.asked), now()) == (2, 1.0)


@virtual
async def test_a_renewal_is_patient_for_a_second_and_the_fetch_goes_on(one: bytes) -> None:
    keys = remote(Script(one, takes_s=4.0))
    await keys.renew()
    assert (now(), keys.current) == (1.0, None)
    await asyncio.sleep(3.1)
    assert keys.current is not None


@virtual
async def test_who_stops_waiting_leaves_alone(one: bytes) -> None:
    script = Script(one, takes_s=0.5)
    keys = remote(script)
    first, second = (asyncio.create_task(keys.renew()) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    await second
    assert first.cancelled()
    assert keys.current is not None
    assert script.asked == [0.0]


@virtual
async def test_a_crash_frees_the_fetch(one: bytes) -> None:
    crash = RuntimeError()
    script, heard = Script(crash), Heard()
    async with kept_fresh(remote(script, heard)) as keys:
        await keys.renew()
        assert (keys.current, keys.failures, keys.last_error) == (None, 2, "RuntimeError")
        assert heard.news == [crash]
        script.said = one
        await asyncio.sleep(1)
        assert keys.current is not None


@virtual
async def test_the_end_of_the_task_ends_a_fetch_that_hangs(one: bytes) -> None:
    async with kept_fresh(remote(Script(one, takes_s=3600.0))) as keys:
        waiting = asyncio.create_task(keys.renew())
        await asyncio.sleep(0)
    await waiting
    assert keys.current is None


# What is taken, and what is another set.


def look(keys: RemoteKeys, script: Script, *said: bytes | Exception) -> list[KeySet | None]:
    """The current set after each answer of the issuer."""

    async def run() -> list[KeySet | None]:
        sets = []
        for script.said in said:
            await keys.renew()
            sets.append(keys.current)
        return sets

    return asyncio.run(run())


def test_the_same_keys_are_the_same_set(jwk: GetJwk) -> None:
    script, heard = Script(b""), Heard()
    a, b, enc = jwk("ES256"), jwk("RS256"), jwk("EdDSA", use="enc")
    first, *others = look(
        remote(script, heard, cooldown_s=0.0),
        script,
        jwks(a, b),
        jwks(b, a),
        jwks({"x5c": ["AAAA"], **a}, b | {"use": None} | {"use": "sig"}, issuer=ISSUER),
        jwks(a, b, enc),
        jwks(a, b, enc),
    )
    assert first is not None
    assert others == [first] * 4
    # Told once for each content: the keys, and a key that is left out.
    kept, left_out = heard.news
    assert kept is first
    assert isinstance(left_out, KeySet)
    assert left_out.left_out == ('keys[2]: use: expected "sig", got "enc"',)


@pytest.mark.parametrize(
    ("algorithm", "change"),
    [
        ("ES256", lambda a, _: [a]),
        ("ES256", lambda a, b: [a, b | {"kid": "new"}]),
        ("ES256", lambda a, b: [a | {"kid": b["kid"]}, b | {"kid": a["kid"]}]),
        ("ES256", lambda a, b: [a, b | {"use": "enc"}]),
        ("ES256", lambda a, b: [a | {"x": b["x"], "y": b["y"]}, b]),
        ("EdDSA", lambda a, b: [a | {"x": b["x"]}, b]),
        ("RS256", lambda a, b: [a | {"n": b["n"]}, b]),
    ],
)
def test_other_keys_are_another_set(
    jwk: GetJwk, algorithm: str, change: Callable[[Jwk, Jwk], list[Jwk]]
) -> None:
    script = Script(b"")
    a, b = jwk(algorithm), jwk(algorithm, "other")
    first, second = look(remote(script, cooldown_s=0.0), script, jwks(a, b), jwks(*change(a, b)))
    assert first is not second
    assert None not in (first, second)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "JWKS: Expecting value"),
        (b"<html>", "JWKS: Expecting value"),
        (b"[]", "JWKS: expected a JSON object, got an array"),
        (b"-----BEGIN PUBLIC KEY-----", "JWKS: Expecting value"),
        (b'{"keys":{}}', "keys: expected an array, got an object"),
        (b'{"keys":[]}', "expected 1 to 100 keys, got 0"),
        (jwks(*[{}] * (MAX_KEYS + 1)), "expected 1 to 100 keys, got 101"),
        (jwks({"kty": "oct", "k": "A" * 64, "kid": "s"}), "keys[0]: expected a key for"),
        (b"x" * (MAX_BYTES + 1), "expected at most 262144 bytes, got more"),
    ],
)
def test_what_is_no_key_set_changes_nothing(one: bytes, said: bytes, error: str) -> None:
    script, heard = Script(b""), Heard()
    keys = remote(script, heard, cooldown_s=0.0)
    first, *others = look(keys, script, one, said, said)
    assert others == [first, first]
    assert (keys.failures, keys.fetches) == (2, 3)
    assert keys.last_error is not None
    assert keys.last_error.startswith(error)
    assert [type(news) for news in heard.news] == [KeySet, KeySetError]


UNFIT: list[tuple[Jwk, str]] = [
    ({"use": "enc"}, 'use: expected "sig", got "enc"'),
    ({"use": "enc", "alg": "RSA-OAEP"}, 'use: expected "sig", got "enc"'),
    ({"kty": "AKP", "alg": "ML-DSA-44"}, "kty: expected EC or OKP or RSA or oct, got"),
    ({"alg": "PS256"}, "expected a key for ES256 or EdDSA or RS256 (the issuer's list), got one for PS256"),
    ({"d": "AQAB"}, "expected a public key, got one with private members (d)"),
    ({"n": "AQAB"}, "expected an RSA modulus of 2048 to 16384 bits"),
]


@pytest.mark.parametrize(("changes", "fault"), UNFIT)
def test_unfit_keys_are_left_out_and_named(jwk: GetJwk, changes: Jwk, fault: str) -> None:
    found = parse_published(jwks(jwk("RS256", **changes), jwk("ES256"), "key"), LISTED)
    assert [key.kid for key in found.keys] == [jwk("ES256")["kid"]]
    first, *_, last = found.left_out
    assert first.startswith(f"keys[0]: {fault}")
    assert last == "keys[2]: expected an object, got a string"


def test_a_secret_is_never_published(jwk: GetJwk) -> None:
    secret = {"kty": "oct", "k": "A" * 64, "kid": "s", "alg": "HS256"}
    found = parse_published(jwks(jwk("ES256"), secret), ALGORITHMS)
    assert not any(key.symmetric for key in found.keys)
    assert len(found.left_out) == 1
    with pytest.raises(KeySetError):
        parse_published(jwks(secret), frozenset({"HS256"}))


def test_keys_that_share_a_kid_are_all_left_out(jwk: GetJwk) -> None:
    shared = [jwk("ES256", kid="a"), jwk("RS256", kid="a")]
    found = parse_published(jwks(*shared, jwk("ES256", "other", kid="b")), LISTED)
    assert [key.kid for key in found.keys] == ["b"]
    assert found.left_out == tuple(
        f"keys[{index}]: expected a kid of its own, got one that 2 keys have" for index in range(2)
    )
    with pytest.raises(KeySetError, match="one that 2 keys have"):
        parse_published(jwks(*shared), LISTED)


def test_an_unfit_key_does_not_take_its_kid_along(jwk: GetJwk) -> None:
    found = parse_published(jwks(jwk("RS256", kid="a", use="enc"), jwk("RS256", "other", kid="a")), LISTED)
    assert found.find("a", "RS256") is found.keys[0]


def test_a_key_without_kid_is_left_out_where_another_fits_too(jwk: GetJwk) -> None:
    found = parse_published(
        jwks(jwk("ES256", kid=None), jwk("ES256", "other", kid="b"), jwk("EdDSA", kid=None)), LISTED
    )
    assert [(key.kid, *key.algorithms) for key in found.keys] == [("b", "ES256"), (None, "EdDSA")]
    assert found.left_out == ("keys[0]: expected a kid, as another key fits ES256 too; got none",)


FIXED = {algorithm: json.loads(new_key(algorithm)[1])["keys"][0] for algorithm in ("ES256", "ES384", "EdDSA")}
published = st.builds(
    lambda algorithm, changes: {
        name: value for name, value in (FIXED[algorithm] | changes).items() if value is not None
    },
    st.sampled_from(sorted(FIXED)),
    st.fixed_dictionaries(
        {"kid": st.sampled_from(["a", "b", "c", None])}, optional={"use": st.sampled_from(["sig", "enc"])}
    ),
)


@given(st.lists(published, min_size=1, max_size=6))
def test_a_token_that_names_a_published_key_finds_that_one_or_none(items: list[Jwk]) -> None:
    try:
        found = parse_published(jwks(*items), ALGORITHMS)
    except KeySetError:
        return
    assert len({fault.partition(":")[0] for fault in found.left_out}) + len(found.keys) == len(items)
    for key in found.keys:
        (algorithm,) = key.algorithms
        # A key without a kid goes by any name.
        assert found.find(key.kid or "any", algorithm) is key
    with contextlib.suppress(KeySetError):
        assert parse_published(jwks(*reversed(items)), ALGORITHMS).digest == found.digest


@given(st.binary() | st.text().map(jwks) | st.binary().map(lambda raw: b"{" + raw))
def test_only_key_set_errors(data: bytes) -> None:
    with pytest.raises(KeySetError):
        parse_published(data, ALGORITHMS)


# Discovery.


def discovered(issuer: str, document: object, url: str | None = None) -> str:
    """The `jwks_uri` that is believed where `url` has this document."""

    async def fetch(asked: str) -> bytes:
        assert asked == (url or f"{issuer}/.well-known/openid-configuration")
        return document if isinstance(document, bytes) else json.dumps(document).encode()

    return asyncio.run(discover(issuer, fetch))


@pytest.mark.parametrize(
    ("issuer", "jwks_uri"),
    [
        (ISSUER, URL),
        (ISSUER, "https://keys.example:8443/a?b=c"),
        (ISSUER, "https://10.0.0.1:6443/openid/v1/jwks"),
        ("https://issuer.example/tenant", URL),
        ("http://127.0.0.1:8080", "http://localhost:8081/keys"),
        ("http://localhost:8080", "http://[::1]:8081/keys"),
        ("http://localhost:8080", URL),
    ],
)
def test_discovery(issuer: str, jwks_uri: str) -> None:
    assert discovered(issuer, {"issuer": issuer, "jwks_uri": jwks_uri, "more": []}) == jwks_uri


def test_an_issuer_that_ends_in_a_slash() -> None:
    url = "https://issuer.example/.well-known/openid-configuration"
    assert (
        discovered("https://issuer.example/", {"issuer": "https://issuer.example/", "jwks_uri": URL}, url)
        == URL
    )
    with pytest.raises(Unfetched, match="the issuer as it is configured"):
        discovered("https://issuer.example/", {"issuer": ISSUER, "jwks_uri": URL}, url)


@pytest.mark.parametrize(
    "issuer", ["https://other.example", f"{ISSUER}/", ISSUER.upper(), "", None, [ISSUER]]
)
def test_another_issuer_is_not_believed(issuer: object) -> None:
    with pytest.raises(Unfetched, match="expected the issuer as it is configured, got another"):
        discovered(ISSUER, {"issuer": issuer, "jwks_uri": URL})


@pytest.mark.parametrize(
    ("issuer", "jwks_uri"),
    [
        (ISSUER, None),
        (ISSUER, [URL]),
        (ISSUER, ""),
        (ISSUER, "/keys"),
        (ISSUER, "http://issuer.example/keys"),
        (ISSUER, "http://127.0.0.1/keys"),
        (ISSUER, "file:///etc/passwd"),
        (ISSUER, "https://"),
        (ISSUER, "https:///keys"),
        (ISSUER, "https://[::1/keys"),
        ("http://127.0.0.1:8080", "ftp://127.0.0.1/keys"),
        ("http://127.0.0.1:8080", "http://keys.example/keys"),
        ("http://127.0.0.1:8080", "http://127.0.0.1.example/keys"),
    ],
)
def test_keys_come_by_https_only(issuer: str, jwks_uri: object) -> None:
    with pytest.raises(Unfetched, match="expected an https URL as jwks_uri, got something else"):
        discovered(issuer, {"issuer": issuer, "jwks_uri": jwks_uri})


@pytest.mark.parametrize(
    "document", [b"", b"<html>", b"[]", b'{"issuer":"a","issuer":"b"}', b"\xff", b"[" * 9999]
)
def test_what_is_no_discovery_document(document: bytes) -> None:
    with pytest.raises(Unfetched, match="discovery: expected a JSON object, got something else"):
        discovered(ISSUER, document)


def test_discovered_keys_are_fetched_from_where_the_document_says(one: bytes) -> None:
    said = {
        f"{ISSUER}/.well-known/openid-configuration": json.dumps(
            {"issuer": ISSUER, "jwks_uri": URL}
        ).encode(),
        URL: one,
    }
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        return said[url]

    async def run() -> None:
        keys = RemoteKeys(ISSUER, None, LISTED, fetch, now=now, random=lambda: 0.5, tell=Heard())
        await keys.renew()
        assert keys.current is not None
        assert (keys.fetches, asked) == (1, list(said))

    asyncio.run(run())


# Over the wire.

#: For what happens at once; only a failure ever waits this long.
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Authority:
    """A CA of its own, and a server's certificate for `localhost` alone."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        return context


def establish(folder: Path) -> Authority:
    folder.mkdir()
    ca, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.pem").write_bytes(certify(ca, "ca", ca, "ca").public_bytes(Encoding.PEM))
    key = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = certify(server, "localhost", ca, "ca").public_bytes(Encoding.PEM)
    (folder / "server.pem").write_bytes(key + certificate)
    return Authority(folder)


def certify(
    key: ec.EllipticCurvePrivateKey, name: str, signer: ec.EllipticCurvePrivateKey, signer_name: str
) -> x509.Certificate:
    subject, issuer = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, signer_name)
    )
    day = dt.timedelta(days=1)
    today = dt.datetime.now(dt.UTC)
    is_ca = key is signer
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - day)
        .not_valid_after(today + day)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(signer, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return establish(tmp_path_factory.mktemp("tls") / "authority")


Respond = Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Server:
    """An HTTPS server that answers each request, on a connection of its own, with what it is told to."""

    def __init__(self, respond: Respond) -> None:
        self.heads: list[bytes] = []
        self.port = 0
        self._respond = respond

    def url(self, path: str = "/keys", host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self._respond(head, writer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(authority: Authority, answer: bytes | Respond) -> AsyncIterator[Server]:
    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)

    server = Server(respond if isinstance(answer, bytes) else answer)
    context = authority.server_context()
    async with await asyncio.start_server(server, "127.0.0.1", 0, ssl=context) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


def ok(body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields])
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.anyio
async def test_a_fetch_asks_for_json_and_for_nothing_else(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(authority, ok(b"{}", "content-type: text/html")) as server:
        assert await Fetcher(authority.ca_file)(server.url("/keys?a=b")) == b"{}"
    (head,) = server.heads
    request_line, *fields = head.decode().split("\r\n")[:-2]
    assert request_line == "GET /keys?a=b HTTP/1.1"
    assert sorted(field.lower() for field in fields) == [
        "accept-encoding: identity",
        "accept: application/json, application/jwk-set+json",
        f"host: localhost:{server.port}",
    ]


@pytest.mark.anyio
async def test_the_largest_document(authority: Authority) -> None:
    async with serving(authority, ok(b"x" * MAX_BYTES)) as server:
        assert len(await Fetcher(authority.ca_file)(server.url())) == MAX_BYTES


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSED = {
    "too much": (ok(b"x" * (MAX_BYTES + 1)), "expected at most 262144 bytes, got more"),
    "too much in chunks": (
        CHUNKED + b"%x\r\n%b\r\n" % (MAX_BYTES + 1, b"x" * (MAX_BYTES + 1)),
        "expected at most 262144 bytes, got more",
    ),
    "a redirect": (
        b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        "expected status 200, got 302",
    ),
    "an error": (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "expected status 200, got 503"),
    "a part": (b"HTTP/1.1 206 Partial Content\r\ncontent-length: 0\r\n\r\n", "expected status 200, got 206"),
    "gzip": (ok(b"{}", "content-encoding: gzip"), "expected identity as content coding, got another"),
    "no http": (b"SSH-2.0-OpenSSH_9\r\n\r\n", "expected an HTTP answer, got a broken one"),
    "cut short": (ok(b"{}")[:-1], "expected an HTTP answer, got a broken one"),
    "cut short in chunks": (CHUNKED + b"2\r\n{}\r\n", "expected an HTTP answer, got a broken one"),
    "nothing": (b"", "expected an HTTP answer, got a broken one"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.anyio
async def test_what_is_no_document(authority: Authority, name: str) -> None:
    answer, phrase = REFUSED[name]
    async with serving(authority, answer) as server:
        with pytest.raises(Unfetched) as caught:
            await Fetcher(authority.ca_file)(server.url())
        assert str(caught.value) == phrase
        assert len(server.heads) == 1


@pytest.mark.anyio
async def test_only_the_ca_is_trusted_and_only_for_its_host(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    stranger = establish(tmp_path / "stranger")
    async with serving(authority, ok(b"{}")) as server:
        for fetch, url in (
            (Fetcher(stranger.ca_file), server.url()),
            (Fetcher(), server.url()),
            (Fetcher(authority.ca_file), server.url(host="127.0.0.1")),
        ):
            with pytest.raises(Unfetched, match="expected a certificate that is trusted for this host"):
                await fetch(url)
        assert server.heads == []


@pytest.mark.anyio
async def test_a_ca_may_be_swapped(authority: Authority, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    fetch = Fetcher(ca_file)
    async with serving(authority, ok(b"{}")) as server:
        for content in (None, b"", b"no PEM"):
            if content is not None:
                ca_file.write_bytes(content)
            with pytest.raises(Unfetched, match="ca_file: expected certificates in PEM"):
                await fetch(server.url())
        ca_file.write_bytes(authority.ca_file.read_bytes())
        assert await fetch(server.url()) == b"{}"


@pytest.mark.anyio
async def test_a_drip_ends_at_the_deadline(authority: Authority) -> None:
    ended = asyncio.Event()

    async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(ok(b"x" * 1000)[:-1000])
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with serving(authority, drip) as server:
        with pytest.raises(Unfetched, match="expected an answer in time, got none"):
            await Fetcher(authority.ca_file, deadline_s=0.3)(server.url())
        # The connection is not left behind.
        await asyncio.wait_for(ended.wait(), PATIENCE_S)


@pytest.mark.anyio
async def test_servers_that_are_none(authority: Authority) -> None:
    left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(ok(b"{}"))
        writer.close()

    fetch = Fetcher(authority.ca_file, deadline_s=0.3)
    url = ""
    for server, phrase in (
        (silent, "expected an answer in time"),
        (plain, "expected a connection, got none"),
    ):
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            url = f"https://localhost:{listening.sockets[0].getsockname()[1]}/"
            with pytest.raises(Unfetched, match=phrase):
                await fetch(url)
            await asyncio.wait_for(left.wait(), PATIENCE_S)
    with pytest.raises(Unfetched, match="expected a connection, got none"):
        await fetch(url)


@pytest.mark.parametrize("url", ["https://[::1/", "ftp://localhost/", "localhost", "https://\n/"])
@pytest.mark.anyio
async def test_what_is_no_url(authority: Authority, url: str) -> None:
    with pytest.raises(Unfetched, match=r"expected .*URL, got"):
        await Fetcher(authority.ca_file)(url)


@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"two words", b"two\nlines", "ü".encode(), b"x" * 8193]
)
@pytest.mark.anyio
async def test_a_bearer_token_that_is_none_is_not_sent(
    authority: Authority, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    async with serving(authority, ok(b"{}")) as server:
        with pytest.raises(Unfetched, match="bearer_token_file: expected") as caught:
            await Fetcher(authority.ca_file, path)(server.url())
        assert server.heads == []
    assert content in {None, b"", b"\n"} or content not in str(caught.value).encode()


# An egress proxy.


@pytest.mark.anyio
async def test_keys_come_by_the_proxy_and_it_sees_no_token(authority: Authority, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("bearer-of-ours")
    async with serving(authority, ok(b"{}")) as server, proxying() as proxy:
        assert await Fetcher(authority.ca_file, token_file, proxy=proxy.url)(server.url()) == b"{}"
        assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
            b"CONNECT localhost:%d HTTP/1.1" % server.port
        ]
        assert b"authorization: Bearer bearer-of-ours\r\n" in server.heads[0]
    assert b"uthorization" not in proxy.sent
    assert b"bearer-of-ours" not in proxy.sent


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.anyio
async def test_a_proxy_that_makes_no_tunnel(authority: Authority, name: str) -> None:
    async with serving(authority, ok(b"{}")) as server, proxying() as proxy:
        proxy.behaviour = FAILURES[name]
        with pytest.raises(Unfetched, match=r"expected a.* got") as caught:
            await Fetcher(authority.ca_file, proxy=proxy.url)(server.url())
        assert WORDS.decode() not in str(caught.value)
        assert not server.heads


@pytest.mark.parametrize("behaviour", [hangs, tunnels_nowhere])
@pytest.mark.anyio
async def test_a_proxy_that_hangs_is_left(authority: Authority, behaviour: Behaviour) -> None:
    async with serving(authority, ok(b"{}")) as server, proxying() as proxy:
        proxy.behaviour = behaviour
        with pytest.raises(Unfetched, match="expected an answer in time, got none"):
            await Fetcher(authority.ca_file, deadline_s=0.3, proxy=proxy.url)(server.url())


@pytest.mark.anyio
async def test_no_proxy_is_no_connection(authority: Authority) -> None:
    with pytest.raises(Unfetched, match="expected a connection, got none"):
        await Fetcher(authority.ca_file, proxy="http://127.0.0.1:1")("https://localhost:1/")


# Kubernetes, whose API server is an issuer.


def api_server(issuer: Callable[[], str], token: Callable[[], bytes], key: Callable[[], bytes]) -> Respond:
    """Discovery and keys of a Kubernetes API server: for who it knows, and 406 to who takes only JSON."""

    async def respond(head: bytes, writer: asyncio.StreamWriter) -> None:
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
        if fields.get(b"authorization") != (b"Bearer " + token()).lower():
            writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        elif head.startswith(b"GET /.well-known/openid-configuration "):
            document = {
                "issuer": issuer(),
                "jwks_uri": f"{issuer()}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
            writer.write(ok(json.dumps(document).encode(), "content-type: application/json"))
        elif not head.startswith(b"GET /openid/v1/jwks ") or b"jwk-set+json" not in fields[b"accept"]:
            writer.write(b"HTTP/1.1 406 Not Acceptable\r\ncontent-length: 0\r\n\r\n")
        else:
            writer.write(ok(key(), "content-type: application/jwk-set+json"))

    return respond


class NoneRevoked:
    def is_revoked(self, issuer: str, jti: str | None, sub: str | None) -> bool:
        del issuer, jti, sub
        return False


def service_account_token(issuer: str, private: bytes, at: float) -> bytes:
    claims = {
        "aud": ["chat-gateway", "https://kubernetes.default.svc"],
        "exp": int(at) + 3600,
        "iat": int(at),
        "iss": issuer,
        "jti": "0aa4b8d4-7c0c-4f8e-8f3a-6f7c0a3d7f53",
        "kubernetes.io": {
            "namespace": "shop",
            "node": {"name": "node-1", "uid": "646e7c5e-32d6-4d42-9dbd-e504e6cbe6b1"},
            "pod": {"name": "orders-6d4f", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
            "serviceaccount": {"name": "orders", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
            "warnafter": int(at) + 1800,
        },
        "nbf": int(at),
        "sub": "system:serviceaccount:shop:orders",
    }
    return b"Bearer " + mint(private, "RS256", kid_of(private), claims).encode()


@pytest.mark.anyio
async def test_kubernetes_is_an_issuer(authority: Authority, tmp_path: Path, pair: GetPair) -> None:
    at = 1_800_000_000.0
    (private, public), (next_private, next_public) = pair("RS256"), pair("RS256", "other")
    published, token_file = [public], tmp_path / "token"
    token_file.write_bytes(b"first-token\n")
    accepted = [b"first-token"]
    respond = api_server(lambda: server.url(""), lambda: accepted[0], lambda: published[0])
    async with serving(authority, respond) as server:
        issuer = server.url("")
        heard = Heard()
        keys = RemoteKeys(
            issuer,
            None,
            frozenset({"RS256"}),
            Fetcher(authority.ca_file, token_file),
            now=now,
            random=lambda: 0.5,
            tell=heard,
            cooldown_s=0.0,
        )
        verifier = Verifier(
            [Issuer(issuer, "chat-gateway", frozenset({"RS256"}), keys)],
            lambda: at,
            NoneRevoked(),
            Failures(lambda: Rate(1.0, 60), now),
        )
        claims = await verifier.verify(service_account_token(issuer, private, at), "10.0.0.1")
        assert isinstance(claims, Claims)
        assert claims.values["sub"] == "system:serviceaccount:shop:orders"
        # The kubelet rotates the token; the old one is not accepted any more, nor are the old keys.
        accepted[0], published[0] = b"second-token", next_public
        rotated = service_account_token(issuer, next_private, at)
        refusal = await verifier.verify(rotated, "10.0.0.1")
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.TOKEN_INVALID
        assert keys.last_error == "expected status 200, got 401"
        assert b"token" not in str(heard.news[-1]).encode()
        token_file.write_bytes(b"second-token")
        assert isinstance(await verifier.verify(rotated, "10.0.0.1"), Claims)
        assert isinstance(
            await verifier.verify(service_account_token(issuer, private, at), "10.0.0.1"), Refusal
        )
