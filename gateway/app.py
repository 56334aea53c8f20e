"""The composition root: settings, policies and a clock in, a running gateway out.

Everything that is real is chosen here and nowhere else: the clock, the randomness of request ids, the
transport, the files that are read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx2
from structlog.typing import FilteringBoundLogger

from gateway.admin.web import admin
from gateway.config.load import Loaded, load
from gateway.config.mistakes import Mistake, tidy
from gateway.config.settings import Account as AccountSettings
from gateway.config.settings import Settings
from gateway.core.policy import Policies
from gateway.edge.server import Running, bind, listening
from gateway.edge.web import Cors, Web, WebConfig
from gateway.exchange import Clock, Exchange, Rules
from gateway.identity.keysets import KeyFile, KeySetError
from gateway.identity.tokens import Issuer, Verifier
from gateway.observe.logs import adopt, logger
from gateway.observe.metrics import Metrics
from gateway.observe.observer import Observer
from gateway.stores.memory import MemoryStore
from gateway.upstream.accounts import Account, Accounts, Discovery, Get
from gateway.upstream.keys import AppKeys
from gateway.upstream.protection import Protection
from gateway.upstream.transport import HttpUpstream, Limits, fetcher

#: How long an idle connection to the upstream is kept; shorter than what servers usually allow.
UPSTREAM_IDLE_S = 15.0


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a gateway is made of. `warnings` are for the operator to see."""

    settings: Settings
    policies: Policies
    key_files: Mapping[str, KeyFile]
    warnings: tuple[str, ...] = ()


class Misconfigured(Exception):
    """The configuration was refused; `mistakes` has a line for each thing that is wrong with it."""

    def __init__(self, mistakes: tuple[str, ...]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


def configure(path: Path, environ: Mapping[str, str]) -> Configuration:
    """All that the file at `path` and the environment say. Raises Misconfigured with every mistake."""
    loaded = load(path, environ)
    key_files, faults = _read_keys(loaded)
    lines = tuple(str(mistake) for mistake in tidy([*loaded.mistakes, *faults]))
    if loaded.settings is None or loaded.policies is None or faults:
        raise Misconfigured(lines)
    return Configuration(loaded.settings, loaded.policies, key_files, lines)


def _read_keys(loaded: Loaded) -> tuple[dict[str, KeyFile], list[Mistake]]:
    """The key file of each issuer, and what is wrong with those that are unfit."""
    key_files: dict[str, KeyFile] = {}
    faults: list[Mistake] = []
    for index, issuer in loaded.issuers.items():
        kind: Literal["keys", "secret"] = "keys" if issuer.jwks else "secret"
        path = issuer.jwks or issuer.secret_file
        assert path is not None  # noqa: S101 - the settings have one of the two
        try:
            key_files[issuer.issuer] = KeyFile(path, frozenset(issuer.algorithms), kind)
        except KeySetError as error:
            setting = ("issuers", index, "jwks" if issuer.jwks else "secret_file")
            # The place of the setting says which file it is.
            faults += (loaded.mistake(setting, fault.removeprefix(f"{path}: ")) for fault in error.faults)
    return key_files, faults


class Gateway:
    """One gateway, wired but not listening."""

    def __init__(
        self,
        configuration: Configuration,
        clock: Clock | None = None,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        settings = configuration.settings
        clock = clock or SystemClock()
        self.settings = settings
        self.metrics = Metrics()
        self.ready = False
        self._configuration = configuration
        self._log = log or logger(settings.log_level)
        self._observer = Observer(self.metrics, self._log)
        self._app_keys = {name: AppKeys(_key_files(said)) for name, said in settings.accounts.items()}
        limits = Limits(settings.upstream.deadline_ms / 1000, settings.upstream.max_answer_bytes)
        self.transport = httpx2.AsyncHTTPTransport(
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=settings.upstream.max_connections,
                max_keepalive_connections=settings.upstream.max_connections,
                keepalive_expiry=UPSTREAM_IDLE_S,
            ),
        )
        rules = Rules(
            configuration.policies,
            frozenset(settings.accounts),
            settings.default_representation,
            settings.upstream.stale_after_ms / 1000,
        )
        self.exchange = Exchange(
            rules=lambda: rules,
            clock=clock,
            verifier=Verifier(_issuers(configuration), clock.wall),
            store=MemoryStore(settings.cache.max_bytes, clock.now),
            upstream=HttpUpstream(
                _accounts(settings, self._app_keys, fetcher(self.transport, limits)), self.transport, limits
            ),
            protection=Protection(clock.now, settings.upstream.max_pause_ms / 1000),
            observer=self._observer,
        )
        self.metrics.flights = lambda: len(self.exchange.flights)
        self.web = Web(self.exchange, _web_config(settings), lambda: secrets.token_hex(8), clock.wall)
        self.admin = admin(lambda: self.ready, self.metrics.exposition)

    async def read_keys_again(self) -> None:
        """Look at the files of keys: what changed takes effect, what is unfit is logged and refused."""
        for issuer, key_file in self._configuration.key_files.items():
            outcome = await asyncio.to_thread(key_file.refresh)
            if isinstance(outcome, KeySetError):
                self._refused("keys refused", issuer=issuer, faults=outcome.faults)
            elif outcome is not None:
                self._log.info("keys changed", issuer=issuer)
        for account, app_keys in self._app_keys.items():
            changed = await asyncio.to_thread(app_keys.refresh)
            if isinstance(changed, ValueError):
                self._refused("appKey refused", account=account, faults=[str(changed)])
            elif changed is not None:
                self._log.info("appKey changed", account=account)

    def _refused(self, event: str, **about: object) -> None:
        self.metrics.reload_failures += 1
        self._log.error(event, **about)

    def adopt_server_log(self) -> None:
        """From now on what the server library has to say is said by this gateway's log."""
        adopt("uvicorn", self._log)

    async def keep_reading(self, every_s: float) -> None:
        """Look at the files again and again, for ever."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.read_keys_again()
            except Exception as error:  # noqa: BLE001 - whatever a file did, the next look may find it mended
                self._observer.crashed(error)

    async def drain(self) -> None:
        """Let what flies land; what has not after `drain_s` ends, and who waits for it is told so."""
        await self.exchange.flights.drain(self.settings.drain_s)


def collect_seldom() -> None:
    """Tell Python's collector that what is there now stays, and to look at the rest less often.

    A request that waits is a dozen linked frames, and a thousand of them are looked through again and again
    at the usual threshold: as much work as answering them. The road itself makes no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


@contextlib.asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Running]:
    """The gateway, listening where its settings say, while the block runs. Raises CannotListen."""
    settings = gateway.settings
    public = bind(settings.listen.host, settings.listen.port)
    try:
        private = bind(settings.admin_listen.host, settings.admin_listen.port)
    except BaseException:
        public.close()
        raise
    gateway.adopt_server_log()
    reading = asyncio.create_task(gateway.keep_reading(settings.reload_s))
    try:
        listeners = listening(
            (gateway.web, public), (gateway.admin, private), settings.drain_s, gateway.drain
        )
        async with listeners as addresses:
            gateway.ready = True
            try:
                yield addresses
            finally:
                gateway.ready = False
    finally:
        reading.cancel()
        await gateway.transport.aclose()


def _issuers(configuration: Configuration) -> list[Issuer]:
    return [
        Issuer(
            said.issuer,
            said.audience,
            frozenset(said.algorithms),
            configuration.key_files[said.issuer],
            said.leeway_s,
        )
        for said in configuration.settings.issuers
    ]


def _key_files(account: AccountSettings) -> tuple[Path, ...]:
    following = account.next_app_key_file
    return (account.app_key_file,) if following is None else (account.app_key_file, following)


def _accounts(settings: Settings, app_keys: Mapping[str, AppKeys], get: Get) -> Accounts:
    return Accounts(
        {name: Account(name, app_keys[name], said.upstream) for name, said in settings.accounts.items()},
        Discovery(settings.discovery.url, settings.discovery.allowed_domains),
        settings.public_url,
        settings.link_hosts,
        get,
    )


def _web_config(settings: Settings) -> WebConfig:
    origins = frozenset(origin.encode() for origin in settings.cors.origins)
    return WebConfig(
        urlsplit(settings.public_url).path.encode(),
        Cors(origins, settings.cors.max_age_s),
        settings.max_body_bytes,
    )
