"""The composition root: settings, policies and a clock in, a running gateway out.

Everything that is real is chosen here and nowhere else: the clock, the randomness of request ids, the
transport. A reload reads everything again, builds the new whole beside the old one, and swaps them between
two steps of the event loop: no request sees half of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from gateway import parts
from gateway.admin.web import Handles, admin
from gateway.config.settings import Settings, server_context
from gateway.config.tracing import traces_exporter
from gateway.configuration import Configuration, Misconfigured
from gateway.core.access import Claims, identify
from gateway.core.errors import Refusal
from gateway.core.limits import Left, Limits
from gateway.core.policy import Client
from gateway.edge.server import Running, bind, listening
from gateway.edge.web import Web
from gateway.exchange import Exchange
from gateway.identity.failures import Failures
from gateway.identity.records import RevocationsError
from gateway.identity.revocations import Revocations
from gateway.identity.tokens import Verifier
from gateway.keysources import KeySources, Sources
from gateway.observe.live import Live, Sights
from gateway.observe.logs import adopt, logger, lost_lines
from gateway.observe.metrics import Gauges, Load, Metrics
from gateway.observe.observer import NOBODY, Observer
from gateway.observe.usage import Usage
from gateway.openapi.document import describe
from gateway.operate import Operations
from gateway.overload import Overload
from gateway.ports import Clock, Limiter, State, Upstream
from gateway.push.hub import Hub
from gateway.reloading import Reloading
from gateway.shortcut import News, ShortCut
from gateway.stores.limits import MemoryLimiter
from gateway.stores.memory import MemoryStore
from gateway.upstream.accounts import Account, Accounts
from gateway.upstream.budget import Budget
from gateway.upstream.protection import Protection
from gateway.upstream.session import trusted
from gateway.upstream.transport import HttpUpstream, fetcher

if TYPE_CHECKING:
    from gateway.cluster import Cluster
    from gateway.observe.traces import Traces

#: Besides policies, what makes another configuration if it differs.
_COMPARED = ("settings", "admin_token", "authorities", "certificates")


class SystemClock:
    """The machine's own clocks."""

    # Asked a dozen times a request.
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Gateway:
    """One gateway, wired but not listening. Raises Misconfigured.

    `path` and `environ` are where the configuration came from, and where it is read again.
    """

    def __init__(
        self,
        configuration: Configuration,
        path: Path,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        settings = configuration.settings
        clock = clock or SystemClock()
        self.at_start = settings
        self.metrics = Metrics()
        self.ready = False
        #: How many connections clients have open; known once it listens.
        self.connections: Callable[[], int] = int
        self.configuration = configuration
        self._clock = clock
        self._log = log or logger(settings.log_level, wall=clock.wall)
        usage = Usage(clock.wall)
        self._observer = Observer(self.metrics, self._log, usage, settings.log_one_hit_in)
        self._watching: list[asyncio.Task[None]] = []
        self._bounds = parts.upstream_bounds(settings)
        self.transport = parts.session(settings)
        self.budget = Budget(
            lambda account: parts.pace(self.settings, account, self.replicas), clock.now, random.random
        )
        self._app_keys = dict(configuration.app_keys)
        self._news = News()
        self._clock_jumps = 0
        self.revocations = _revocations(settings, clock, self._news.tell)
        self.reloading = Reloading(
            self, path=path, environ=environ, revocations=self.revocations, log=self._log, wall=clock.wall
        )
        self._protection = Protection(clock.now, lambda: self.settings.upstream.max_pause_ms / 1000)
        self._key_sources = KeySources(
            self._log, self._observer.crashed, clock.now, random.random, self._news.tell
        )
        failures = Failures(lambda: parts.failed_tokens(self.settings), clock.now)
        self._sources = self._key_sources.prepare(configuration)
        self._key_sources.adopt(self._sources, settings.issuers)
        self._verifier = Verifier(
            self._sources.issuers,
            clock.wall,
            self.revocations,
            failures,
            owner=self._owner,
            max_bytes=settings.memory.tokens_bytes,
            changed=self._news.tell,
        )
        self._tracer = _tracer(environ)
        self._accounts = self._accounts_of(settings)
        self._state = self._state_of(configuration, 0, self._upstream())
        store = MemoryStore(settings.cache.max_bytes, clock.now, lambda: self._state.policies.views)
        limiter = self._limiter = MemoryLimiter(clock.now, clock.wall)
        self._digest = parts.digest(configuration)
        self.cluster = self._cluster(store, limiter, usage)
        self._overload_bounds = parts.overload_bounds(settings)
        self.overload = Overload(lambda: self._overload_bounds, clock.now, random.random)
        charging: Limiter = limiter if self.cluster is None else self.cluster.limiter
        self.short_cut = self._short_cut(store, charging) if settings.short_cut else None
        self._description: bytes | None = None
        self.exchange = self._exchange(store, charging)
        self.hub = self.exchange.watchers = self._hub(charging)
        sights = self._sights(charging)
        self.live = Live(self.metrics, usage, self._observer.recent, sights, clock)
        self.metrics.gauges = self._gauges(store, usage)
        #: The clients' listener's, and the private one's. What is loaded into them is shown from then on.
        self.tls = parts.tls(settings.tls), parts.tls(settings.admin_tls)
        self._web_config = parts.web_config(settings)
        self.web = Web(self.exchange, lambda: self._web_config, _new_id, clock.wall)
        self.operations = self._operations()
        self.admin = admin(self._handles(usage))

    @property
    def replicas(self) -> int:
        """How many share what is allowed to all, as far as this one knows."""
        return 1 if self.cluster is None else self.cluster.living

    def _cluster(self, store: MemoryStore, limiter: MemoryLimiter, usage: Usage) -> Cluster | None:
        if self.at_start.redis_url is None:
            return None
        # It needs a library that is there only where it was asked for.
        from gateway.cluster import Cluster  # noqa: PLC0415

        return Cluster(
            self.at_start.redis_url,
            self.at_start,
            digest=lambda: self._digest,
            clock=self._clock,
            log=self._log,
            store=store,
            limiter=limiter,
            usage=usage,
            revocations=self.revocations,
            safely=self.safely,
        )

    def _exchange(self, store: MemoryStore, limiter: Limiter) -> Exchange:
        exchange = Exchange(
            state=lambda: self._state,
            clock=self._clock,
            verifier=self._verifier,
            store=store,
            limiter=limiter,
            budget=self.budget,
            protection=self._protection,
            overload=self.overload,
            observer=self._observer,
            short_cut=self.short_cut,
            replicas=None if self.cluster is None else self.cluster.flights,
            tracer=self._tracer,
            max_wait_s=lambda: self.settings.push.max_wait_s,
            description=self._describe,
        )
        if self.cluster is not None:
            self.cluster.join(exchange)
        return exchange

    def _hub(self, limiter: Limiter) -> Hub:
        return Hub(
            self.exchange,
            state=lambda: self._state,
            clock=self._clock,
            limiter=limiter,
            observer=self._observer,
            heartbeat_s=lambda: self.settings.push.heartbeat_ms / 1000,
            random=random.random,
        )

    def _operations(self) -> Operations:
        return Operations(
            exchange=self.exchange,
            revocations=self.revocations,
            settings=lambda: self.settings,
            clients=lambda: {client.name for client in self._state.policies.clients},
            prefix=lambda: self._web_config.prefix,
            read_again=self.reloading.reload,
            log=self._log,
        )

    def _short_cut(self, store: MemoryStore, limiter: Limiter) -> ShortCut:
        return ShortCut(
            max_bytes=self.at_start.memory.grants_bytes,
            state=lambda: self._state,
            news=self._news,
            clock=self._clock,
            limiter=limiter,
            store=store,
            observer=self._observer,
            new_id=_new_id,
            is_traced=None if self._tracer is None else self._tracer.wants,
        )

    def _gauges(self, store: MemoryStore, usage: Usage) -> Gauges:
        return Gauges(
            flights=lambda: len(self.exchange.flights),
            keys=lambda: self._key_sources.remotes,
            reloads=self.reloading.told,
            budgets=self.budget.state,
            revocations=self.revocations.count,
            kept=lambda: self._kept(store),
            counts=lambda: self._counts(store),
            evictions=lambda: self._evictions(store),
            sent=usage.sent,
            waiters=lambda: self.exchange.waiting,
            watches=lambda: len(self.hub.watches()),
            breakers=lambda: {account: state.value for account, state in self._protection.state().items()},
            load=self._load,
            shared=lambda: None if self.cluster is None else self.cluster.seen(),
        )

    def _sights(self, charging: Limiter) -> Sights:
        return Sights(
            is_ready=lambda: self.ready,
            replicas=lambda: self.replicas,
            reload=self.reloading.status,
            accounts=lambda: self._state.accounts,
            watches=self.hub.watches,
            limits=lambda names: self._limits(charging, names),
        )

    def _limits(
        self, charging: Limiter, names: Collection[str]
    ) -> Mapping[str, tuple[Limits, Sequence[Left] | None]]:
        """What those clients may do, and what is left of it where that is known without asking Redis."""

        def left(client: Client) -> Sequence[Left] | None:
            if charging.lane(client, None) is None:
                return None
            return self._limiter.lane(client, None).peek(self._clock.now(), self._clock.wall()).left

        clients = self._state.policies.clients
        return {client.name: (client.limits, left(client)) for client in clients if client.name in names}

    def _load(self) -> Load:
        return Load(
            connections=self.connections(),
            requests=self.overload.requests,
            lag_s=self.overload.lag_s,
            lag_max_s=self.overload.lag_max_s,
            log_lines_lost=lost_lines(self._log),
            clock_jumps=self._clock_jumps,
        )

    def _kept(self, store: MemoryStore) -> Mapping[str, tuple[int, int]]:
        said = self.at_start
        kept = {
            "entries": (store.weight, said.cache.max_bytes),
            "tokens": (self._verifier.weight, said.memory.tokens_bytes),
        }
        if self.short_cut is not None:
            kept["grants"] = self.short_cut.weight, said.memory.grants_bytes
        return kept

    def _counts(self, store: MemoryStore) -> Mapping[str, int]:
        grants = {} if self.short_cut is None else self.short_cut.counts()
        return {**store.counts(), "tokens": self._verifier.remembered, **grants}

    def _evictions(self, store: MemoryStore) -> Mapping[str, int]:
        grants = {} if self.short_cut is None else self.short_cut.evictions()
        return {**store.evictions(), "tokens": self._verifier.evictions, **grants}

    def _handles(self, usage: Usage) -> Handles:
        return Handles(
            access=lambda: parts.access(self.configuration),
            is_ready=lambda: self.ready,
            status=self._status,
            exposition=self.metrics.scrape,
            usage=usage.table,
            revocations=self.revocations.entries,
            revoke=self.operations.revoke,
            reload=self.operations.reload,
            purge=self.operations.purge,
            explain=self.operations.explain,
            live=self.live.open,
        )

    @property
    def settings(self) -> Settings:
        """As they were last read. Some take effect at the start only: `at_start` has those."""
        return self.configuration.settings

    # -- what rooms ask, each time anew ------------------------------------------------------------------

    def _describe(self) -> bytes:
        """The description of the public surface, made for the first who asks: that takes milliseconds."""
        if self._description is None:
            said = self.settings
            policies = self.configuration.policies
            self._description = describe(policies, said.public_url, said.push.max_wait_s)
        return self._description

    def _owner(self, claims: Claims) -> str:
        client = identify(claims, self._state.policies, lambda _: False)
        return NOBODY if isinstance(client, Refusal) else client.name

    def _status(self) -> Mapping[str, object]:
        return {
            "policies_version": self._state.policies.version,
            "reload": self.reloading.status(),
            "keys": {
                issuer: {"age_s": keys.age_s(), "last_error": keys.last_error}
                for issuer, keys in self._key_sources.remotes.items()
            },
            "budgets": {
                account: {"waiting": state.waiting, "in_flight": state.in_flight, "pace": state.pace}
                for account, state in self.budget.state().items()
            },
            **({} if self.cluster is None else {"shared": self.cluster.status()}),
        }

    # -- change without restart --------------------------------------------------------------------------

    async def adopt(self, read: Configuration) -> bool:
        """Make it the one in force, with the keys that it names. Whether it is something new."""
        sources = self._key_sources.prepare(read)
        authorities = await self._authorities(read)
        await self._key_sources.warm(sources)
        if authorities is not None:
            self.transport.trust(authorities)
        return self._adopt(read, sources)

    async def _authorities(self, read: Configuration) -> ssl.SSLContext | None:
        """Who vouches for the upstream from now on; None if that has not changed."""
        if read.authorities == self.configuration.authorities:
            return None
        # To read certificates takes a while.
        return await asyncio.to_thread(trusted, read.settings.upstream.ca_file)

    def _adopt(self, read: Configuration, sources: Sources) -> bool:
        """Swap the whole. There is no await in here, so that no request sees half of it."""
        old = self.configuration
        version = old.policies.version
        keys_changed = self._key_sources.adopt(sources, read.settings.issuers)
        for account, app_keys in read.app_keys.items():
            keys_changed |= self._app_keys.setdefault(account, app_keys).adopt(app_keys)
        self._verifier.trust(sources.issuers)
        policies = replace(read.policies, version=version)
        same = policies == old.policies and all(
            getattr(read, name) == getattr(old, name) for name in _COMPARED
        )
        if not same:
            policies = replace(policies, version=version + 1)
            read = replace(read, policies=policies)
            moved = parts.places(read) != parts.places(old)
            if moved:
                accounts = self._accounts_of(read.settings)
                accounts.take_over(self._accounts)
                self._accounts = accounts
                self._protection.forget_targets()
            upstream = self._upstream() if moved else self._state.upstream
            self.configuration = read
            self._digest = parts.digest(read)
            self._state = self._state_of(read, self._state.epoch + moved, upstream)
            self._web_config = parts.web_config(read.settings)
            self._description = None
            self._overload_bounds = parts.overload_bounds(read.settings)
        self._news.tell()
        self._show_certificates()
        return keys_changed or not same

    def _show_certificates(self) -> None:
        """Which files they are in was settled at the start."""
        at_start = self.at_start
        for context, said in zip(self.tls, (at_start.tls, at_start.admin_tls), strict=True):
            if context is None or said is None:
                continue
            try:
                # What is half loaded would be half in force.
                server_context(said.certificate_file, said.key_file)
                context.load_cert_chain(said.certificate_file, said.key_file, password="")
            except (OSError, ValueError):
                self._log.error("certificate refused", file=str(said.certificate_file))

    def _state_of(self, read: Configuration, epoch: int, upstream: Upstream) -> State:
        settings = read.settings
        return State(
            read.policies,
            frozenset(settings.accounts),
            settings.default_representation,
            settings.upstream.stale_after_ms / 1000,
            upstream,
            self.revocations.is_client_revoked,
            settings.max_body_bytes,
            settings.upstream.refuse_other_session_key,
            epoch,
        )

    def _accounts_of(self, settings: Settings) -> Accounts:
        return Accounts(
            {
                name: Account(name, self._app_keys[name], said.upstream)
                for name, said in settings.accounts.items()
            },
            parts.discovery(settings),
            settings.public_url,
            settings.link_hosts,
            fetcher(self.transport, self._bounds),
        )

    def _upstream(self) -> HttpUpstream:
        return HttpUpstream(self._accounts, self.transport, self._bounds, self._ask_again)

    async def _ask_again(self, account: str) -> None:
        """Wait until the budget has room for one more; then it is sent, and counted."""
        await self.budget.again(account)
        self.metrics.repeats[account] += 1

    async def keep_looking(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(self.settings.reload_s)
            await self.safely(self.reloading.look_again)

    async def safely(self, work: Callable[[], Awaitable[object]]) -> None:
        """For work that nobody waits for: whatever a file did, the next look may find it mended."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self._observer.crashed(error)

    # -- life ----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """What has to run while the gateway serves."""
        for library in ("uvicorn", "asyncio", "opentelemetry"):
            adopt(library, self._log)
        for notice in self.revocations.notices:
            self._log.warning("revocations", notice=notice)
        await self._key_sources.warm(self._sources)
        if self.cluster is not None:
            await self.cluster.begin()
        works = (self.keep_looking, self._keep_watching, self._keep_telling)
        self._watching = [asyncio.create_task(work()) for work in works]

    async def _keep_watching(self) -> None:
        while True:
            await self.safely(lambda: self.overload.watch(self._clock.wall, self._clock_set))
            await asyncio.sleep(1)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self.safely(self.live.tick)

    def _clock_set(self, seconds: float) -> None:
        """Whether a token has expired, and what is revoked, is another question now."""
        self._clock_jumps += 1
        self._log.warning("clock set", seconds=round(seconds, 1))
        self._news.tell()

    async def end(self) -> None:
        """Leave nothing behind."""
        for task in self._watching:
            task.cancel()
        if self.cluster is not None:
            await self.cluster.end()
        await self._key_sources.close()
        await self.transport.aclose()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def drain(self) -> None:
        """Let what flies land; what has not after `drain_s` ends, and who waits for it is told so.

        Who is told of changes is sent elsewhere at once.
        """
        self.live.close()
        await self.hub.drain()
        await self.exchange.flights.drain(self.at_start.drain_s)


def _new_id() -> str:
    """An id that nobody else has by chance; it is no secret."""
    return f"{random.getrandbits(64):016x}"


def _tracer(environ: Mapping[str, str]) -> Traces | None:
    name = traces_exporter(environ)
    if name is None:
        return None
    # It needs libraries that are there only where they were asked for.
    from gateway.observe.traces import Traces, exporter  # noqa: PLC0415

    return Traces(exporter(name))


def _revocations(settings: Settings, clock: Clock, changed: Callable[[], None]) -> Revocations:
    said = settings.revocations
    try:
        return Revocations(said.file, said.journal, clock.wall, changed)
    except RevocationsError as error:
        raise Misconfigured(tuple(f"revocations: {fault}" for fault in error.faults)) from None


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
    settings = gateway.at_start
    public = bind(settings.listen.host, settings.listen.port)
    try:
        private = bind(settings.admin_listen.host, settings.admin_listen.port)
    except BaseException:
        public.close()
        raise
    with contextlib.closing(public), contextlib.closing(private):
        try:
            await gateway.begin()
            listeners = listening(
                (gateway.web, gateway.short_cut, public),
                (gateway.admin, private),
                settings.drain_s,
                gateway.drain,
                bounds=parts.edge_bounds(settings),
                tls=gateway.tls,
            )
            async with listeners as addresses:
                gateway.ready = True
                gateway.connections = addresses.connections
                try:
                    yield addresses
                finally:
                    gateway.ready = False
        finally:
            await gateway.end()
