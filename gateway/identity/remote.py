"""The keys of an issuer that publishes them: at a URL, or where its OpenID discovery document says.

They are fetched before they are needed, and once at a time. The last good set serves on while the issuer
cannot be reached, up to a limit: it might have withdrawn a key in the meantime.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from gateway.core.peers import is_loopback
from gateway.flights import Flights, landing
from gateway.identity.documents import read_object
from gateway.identity.fetching import Fetch, Unfetched
from gateway.identity.keysets import KeySet, parse_published

#: OpenID Connect Discovery 1.0 §4.
WELL_KNOWN = "/.well-known/openid-configuration"
#: The first pause after a failure; each further one is twice as long, up to the usual pause.
FIRST_RETRY_S = 1.0
#: How much longer or shorter a pause may be, so that gateways that started together do not stay together.
JITTER = 0.1
#: How long a token with an unknown kid waits for the keys to be looked at again.
PATIENCE_S = 1.0


class RemoteKeys:
    """The key set of one issuer, as it was when last it could be fetched and was fit.

    Without `jwks_url` it is found by discovery. `now` gives monotonic seconds, as the event loop does,
    `random` a number from 0 to 1. `changed` is called in the step in which `current` becomes another.
    `tell` hears what a log should say: a set when it is the first, another, or the first after a failure
    (see its `left_out`); and why there is none: Unfetched or KeySetError, each once while it lasts; any
    other exception is a mistake of ours.
    """

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None,
        algorithms: frozenset[str],
        fetch: Fetch,
        *,
        now: Callable[[], float],
        random: Callable[[], float],
        tell: Callable[[KeySet | Exception], None],
        changed: Callable[[], None] = lambda: None,
        refresh_s: float = 300.0,
        cooldown_s: float = 10.0,
        max_stale_s: float = 86_400.0,
    ) -> None:
        #: The last good set; None before there is one, and when it is older than `max_stale_s`.
        self.current: KeySet | None = None
        self.fetches = 0
        self.failures = 0
        self.last_error: str | None = None
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._algorithms = algorithms
        self._fetch = fetch
        self._now = now
        self._random = random
        self._tell = tell
        self._changed = changed
        self._retimed = asyncio.Event()
        self._refresh_s = refresh_s
        self._cooldown_s = cooldown_s
        self._max_stale_s = max_stale_s
        self._keys: KeySet | None = None
        self._told: KeySet | None = None
        self._asked_at = 0.0
        self._lapse: asyncio.TimerHandle | None = None
        self._cool_at = -math.inf
        self._flights: Flights[bool] = Flights()

    def go_by(self, *, refresh_s: float, cooldown_s: float, max_stale_s: float) -> None:
        """From now on these are the times; the keys stay, and a pause by an older time ends."""
        if refresh_s != self._refresh_s:
            self._retimed.set()
        self._refresh_s = refresh_s
        self._cooldown_s = cooldown_s
        self._max_stale_s = max_stale_s
        self._serve_on()

    def age_s(self) -> float | None:
        """How long ago the last good set was asked for; None before there is one."""
        return None if self._keys is None else self._now() - self._asked_at

    async def renew(self) -> None:
        """Look again, and wait for it, but not for long.

        A fetch that is under way is joined. One is started once in `cooldown_s`, also where the one that was
        joined brought nothing new: it may have left before a key was published. In between there is no wait.
        """
        began, before = self._now(), self._keys
        if self._flights:
            landed = await landing(self._join(), PATIENCE_S)
            if landed is None or self._keys is not before:
                return
            # What has landed frees its place one step later.
            await asyncio.sleep(0)
        now = self._now()
        if not self._flights:
            if now < self._cool_at:
                return
            self._cool_at = now + self._cooldown_s
        await landing(self._join(), PATIENCE_S - (now - began))

    async def keep_fresh(self) -> None:
        """Fetch at once, and then again and again, for ever. Whoever cancels it ends a running fetch, too."""
        retry_s = FIRST_RETRY_S
        try:
            while True:
                if await landing(self._join()):
                    retry_s, pause_s = FIRST_RETRY_S, self._refresh_s
                else:
                    retry_s, pause_s = 2 * retry_s, min(retry_s, self._refresh_s)
                await self._pause(pause_s * (1 + JITTER * (2 * self._random() - 1)))
        finally:
            await self._flights.drain(0)
            self._forget_lapse()

    async def _pause(self, seconds: float) -> None:
        self._retimed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._retimed.wait()

    def _join(self) -> asyncio.Task[bool]:
        flight, _ = self._flights.join(self._issuer, self._look)
        return flight

    async def _look(self) -> bool:
        """Fetch and read the keys; whether they are good."""
        asked_at = self._now()
        self.fetches += 1
        try:
            url = self._jwks_url or await discover(self._issuer, self._fetch)
            found = parse_published(await self._fetch(url), self._algorithms)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look may find it mended
            self._failed(error)
            return False
        self._asked_at = asked_at
        self._found(found)
        return True

    def _failed(self, error: Exception) -> None:
        said = str(error) or type(error).__name__
        self.failures += 1
        if said != self.last_error:
            self._tell(error)
        self._told, self.last_error = None, said

    def _found(self, found: KeySet) -> None:
        if self._keys is None or found.digest != self._keys.digest:
            # Only now another object: tokens verified with the same keys are not verified again.
            self._keys = found
        self._serve_on()
        if self._told is None or (found.digest, found.left_out) != (self._told.digest, self._told.left_out):
            self._tell(found)
        self._told, self.last_error = found, None

    def _serve_on(self) -> None:
        """Serve the last good set, for as long as it may be."""
        self._forget_lapse()
        age_s = self.age_s()
        if age_s is None:
            return
        if age_s > self._max_stale_s:
            self._serve(None)
            return
        # A timer, as nobody who holds what these keys vouched for would look at the clock.
        self._lapse = asyncio.get_running_loop().call_later(self._max_stale_s - age_s, self._serve, None)
        self._serve(self._keys)

    def _serve(self, keys: KeySet | None) -> None:
        if keys is not self.current:
            self.current = keys
            self._changed()

    def _forget_lapse(self) -> None:
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None


async def discover(issuer: str, fetch: Fetch) -> str:
    """The `jwks_uri` that an issuer's discovery document names (OpenID Connect Discovery 1.0 §4).

    Raises Unfetched.
    """
    body = await fetch(issuer.rstrip("/") + WELL_KNOWN)
    try:
        document = read_object(body)
    except ValueError as error:
        raise Unfetched("discovery: expected a JSON object, got something else") from error
    if document.get("issuer") != issuer:
        # §4.3: another may not speak for this one, nor this one under another name.
        raise Unfetched("discovery: expected the issuer as it is configured, got another")
    url = document.get("jwks_uri")
    if not isinstance(url, str) or not _may_be_asked(url, issuer):
        raise Unfetched("discovery: expected an https URL as jwks_uri, got something else")
    return url


def _may_be_asked(url: str, issuer: str) -> bool:
    """Whether keys may come from there: plain http never leaves the machine, nor is it led there."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (_is_plain_loopback(parts) and _is_plain_loopback(urlsplit(issuer)))
        )
    except ValueError:
        return False


def _is_plain_loopback(parts: SplitResult) -> bool:
    return parts.scheme == "http" and is_loopback(parts.hostname or "")
