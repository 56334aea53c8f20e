"""Whoever changes what stands says so at once: nobody who holds a grant asks in between."""

from __future__ import annotations

import asyncio
import inspect
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.config.settings import Issuer as IssuerSettings
from gateway.core.access import Claims
from gateway.identity.development import kid_of, mint, new_key
from gateway.identity.fetching import Unfetched
from gateway.identity.keysets import KeyFile
from gateway.identity.remote import RemoteKeys
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Issuer
from gateway.keysources import KeySources, Sources
from tests.identity.world import CLAIMS, NOW, Keys, verifier
from tests.identity_provider import provider
from tests.virtual import VirtualLoop, virtual

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LISTED = frozenset({"EdDSA"})
FILED, PUBLISHED = ISSUERS = ("https://filed.example", "https://published.example")
SUBJECTS, CLIENTS = ("ann", "bob"), ("partner-a", "partner-b")
PAIRS = [new_key("EdDSA") for _ in range(3)]
TOKENS = [
    b"Bearer " + mint(private, "EdDSA", kid_of(private), CLAIMS | said).encode()
    for private, _ in PAIRS
    for said in (
        {"iss": issuer, "sub": sub, "jti": f"{issuer}-{sub}"} for issuer in ISSUERS for sub in SUBJECTS
    )
]
JWKS = [
    json.dumps({"keys": [json.loads(PAIRS[n][1])["keys"][0] for n in some]}).encode()
    for some in ((0,), (1,), (0, 1), (1, 2))
]
RECORDS: list[dict[str, object]] = [
    {"client": "partner-a"},
    {"client": "partner-b"},
    {"sub": "ann", "issuer": FILED},
    {"sub": "ann", "issuer": PUBLISHED},
    {"sub": "bob", "issuer": PUBLISHED},
    {"jti": f"{FILED}-bob", "issuer": FILED},
    {"jti": f"{PUBLISHED}-ann", "issuer": PUBLISHED},
    {"jti": f"{PUBLISHED}-ann", "issuer": FILED},
]


class InOneThread(VirtualLoop):
    """What belongs into another thread is done at once: on virtual time nobody would wait for it."""

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - as the loop has it
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except OSError as error:
            future.set_exception(error)
        return future


class News(RuleBasedStateMachine):
    """All that can end a grant, in any order, but for what it knows by itself: time and policies."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.runner = asyncio.Runner(loop_factory=InOneThread)
        self.loop = self.runner.get_loop()
        self.heard: list[list[bool]] = []
        self.held: list[Claims] = []
        self.published: bytes | None = JWKS[0]
        self.max_stale_s = 600
        self.revocations = Revocations(self.file("revoked", b""), self.path / "journal", wall, self.hear)
        self.sources = KeySources(structlog.get_logger(), crashed, self.loop.time, half, self.hear)
        self.remote = RemoteKeys(
            PUBLISHED,
            "https://published.example/keys",
            LISTED,
            self.fetch,
            now=self.loop.time,
            random=half,
            tell=lambda _: None,
            changed=self.hear,
        )
        self.key_file = KeyFile(self.file("jwks", JWKS[0]), LISTED)
        self.issuers = self.trusted("gateway", both=True)
        self.verifier = verifier(*self.issuers, revocations=self.revocations, changed=self.hear)
        self.adopt()
        self.runner.run(self.begin())
        self.everybody_polls()

    def teardown(self) -> None:
        self.runner.close()
        self.folder.cleanup()

    async def begin(self) -> None:
        self.fresh = asyncio.create_task(self.remote.keep_fresh())
        await asyncio.sleep(1)

    async def fetch(self, _: str) -> bytes:
        if self.published is None:
            raise Unfetched("down")
        return self.published

    def file(self, name: str, content: bytes) -> Path:
        (self.path / name).write_bytes(content)
        return self.path / name

    def trusted(self, audience: str, *, both: bool) -> tuple[Issuer, ...]:
        issuers = (
            Issuer(FILED, audience, LISTED, self.key_file),
            Issuer(PUBLISHED, "gateway", LISTED, self.remote),
        )
        return issuers if both else issuers[1:]

    def row(self, issuer: str, **said: object) -> IssuerSettings:
        said |= {"issuer": issuer, "audience": "gateway", "algorithms": ["EdDSA"]}
        return IssuerSettings.model_validate(said, context={"folder": self.path})

    def adopt(self) -> None:
        read = KeyFile(self.path / "jwks", LISTED)
        rows = (
            self.row(FILED, jwks="jwks"),
            self.row(PUBLISHED, jwks_url=f"{PUBLISHED}/keys", max_stale_s=self.max_stale_s),
        )
        self.sources.adopt(
            Sources(self.trusted("gateway", both=True), {PUBLISHED: self.remote}, {FILED: read}), rows
        )

    def hear(self) -> None:
        if hasattr(self, "revocations"):
            self.heard.append(self.standing())

    def standing(self) -> list[bool]:
        """What is known now of all that is held."""
        return [claims.stands() for claims in self.held] + [
            not self.revocations.is_client_revoked(name) for name in CLIENTS
        ]

    def do(self, step: Callable[[], object]) -> None:
        async def run() -> None:
            if inspect.isawaitable(outcome := step()):
                await outcome

        before, self.heard = self.standing(), []
        self.runner.run(run())
        if self.standing() != before:
            # By the time of the news it has happened.
            assert self.heard
            assert self.heard[-1] == self.standing()

    @rule()
    def everybody_polls(self) -> None:
        for token in TOKENS:
            self.do(partial(self.verifier.verify, token, None))
            claims = self.runner.run(self.verifier.verify(token, None))
            if isinstance(claims, Claims) and not any(claims is held for held in self.held):
                self.held.append(claims)

    @rule(jwks=st.sampled_from(JWKS))
    def keys_in_the_file_rotate(self, jwks: bytes) -> None:
        self.file("jwks", jwks)
        self.do(self.adopt)

    @rule(jwks=st.sampled_from([*JWKS, None]))
    def the_issuer_publishes(self, jwks: bytes | None) -> None:
        self.published = jwks
        self.do(lambda: asyncio.sleep(301))

    @rule(seconds=st.sampled_from([1.0, 301.0, 601.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(lambda: asyncio.sleep(seconds))

    @rule(max_stale_s=st.sampled_from([300, 600, 3600]))
    def keys_may_be_older_or_not(self, max_stale_s: int) -> None:
        self.max_stale_s = max_stale_s
        self.do(self.adopt)

    @rule(audience=st.sampled_from(["gateway", "elsewhere"]), both=st.booleans())
    def other_issuers(self, audience: str, both: bool) -> None:
        self.do(lambda: self.verifier.trust(self.trusted(audience, both=both)))

    @rule(record=st.sampled_from(RECORDS), withdrawn=st.booleans())
    def somebody_revokes(self, record: dict[str, object], withdrawn: bool) -> None:
        async def say() -> None:
            try:
                await self.revocations.record(record | ({"withdrawn": True} if withdrawn else {}))
            except ValueError:
                assert withdrawn  # what nobody revoked

        self.do(say)

    @rule(records=st.lists(st.sampled_from(RECORDS), unique_by=str))
    def the_operators_write_their_file(self, records: list[dict[str, object]]) -> None:
        self.file("revoked", b"".join(json.dumps(record).encode() + b"\n" for record in records))
        self.do(self.revocations.refresh)


def crashed(error: Exception) -> None:
    raise error


def wall() -> float:
    return NOW


def half() -> float:
    return 0.5


TestNews = News.TestCase
TestNews.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def counting() -> tuple[list[int], Callable[[], None]]:
    calls: list[int] = []
    return calls, lambda: calls.append(1)


def test_the_same_issuers_again_are_no_news() -> None:
    calls, changed = counting()
    one = Issuer(FILED, "gateway", LISTED, Keys(None))
    its = verifier(one, changed=changed)
    its.trust([Issuer(FILED, "gateway", LISTED, one.keys)])
    assert not calls
    its.trust([])
    assert calls == [1]


@virtual
async def test_the_same_keys_again_are_no_news() -> None:
    calls, changed = counting()

    async def fetch(_: str) -> bytes:
        return JWKS[0]

    keys = RemoteKeys(
        PUBLISHED,
        PUBLISHED,
        LISTED,
        fetch,
        now=asyncio.get_running_loop().time,
        random=half,
        tell=lambda _: None,
        changed=changed,
        max_stale_s=60.0,
        cooldown_s=1.0,
    )
    for _ in range(3):
        await keys.renew()
        await asyncio.sleep(59)
    assert (keys.fetches, calls) == (3, [1])
    await asyncio.sleep(2)
    assert keys.current is None
    assert calls == [1, 1]


@pytest.mark.anyio
async def test_sources_pass_on_what_remote_keys_tell() -> None:
    calls, changed = counting()
    async with provider() as its:
        loop = asyncio.get_running_loop()
        sources = KeySources(structlog.get_logger(), crashed, loop.time, half, changed)
        row = IssuerSettings(
            issuer=its.issuer, audience="gateway", algorithms=("ES256",), jwks_url=its.jwks_url
        )
        remote = sources._remote(row)
        await remote.renew()
        assert remote.current is not None
        assert calls == [1]
