"""What differs between clients, shown once: a view, a denial, a limit, an explanation, a revocation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.demo.stage import ISSUER, Stage
from gateway.demo.wire import Broken, Client, Response, request

#: More than the partner's policy lets through at once, however slow the machine.
RUSH = 5_000


@dataclass(frozen=True, slots=True)
class Acts:
    """What happened. Statuses are of the gateway's answers; `errors` says what should not have been."""

    fields_of_backend: int
    fields_of_partner: tuple[str, ...]
    denied: str
    limited_after: int
    ratelimit: str
    retry_after_s: str
    backend_meanwhile: int
    explained: tuple[str, ...]
    revoked: str
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stand:
    """Where the gateway listens for clients and for operators, and a chat to ask for."""

    stage: Stage
    chat_url: str
    admin_port: int


async def perform(stand: Stand) -> Acts:
    """All of them. Raises Broken."""
    url = urlsplit(stand.chat_url)
    client, operator = Client(url.hostname or "", url.port or 80), Client("127.0.0.1", stand.admin_port)
    try:
        return await _perform(stand, client, operator)
    finally:
        client.close()
        operator.close()


async def _perform(stand: Stand, client: Client, operator: Client) -> Acts:
    backend, partner = stand.stage.token("bff"), stand.stage.token("partner", jti="to-be-revoked")
    whole = await _get(client, stand, "/info", backend)
    view = await _get(client, stand, "/info", partner)
    denied = await _get(client, stand, "/info/visitorName", partner)
    said = {"token": partner, "path": urlsplit(stand.chat_url).path + "/exitSurvey"}
    explained = _object(await _post(operator, stand, "/explain", said))
    limited_after, limited = await _rush(client, stand, partner)
    meanwhile = await _get(client, stand, "/info", backend)
    record = {"jti": "to-be-revoked", "issuer": ISSUER, "note": "the demo"}
    confirmed = await _post(operator, stand, "/revocations", record)
    revoked = await _get(client, stand, "/info", partner)
    shown = _fields(view)
    expected = (
        ("the backend's info", whole.status == 200),
        ("the partner's view", view.status == 200 and "visitorName" not in shown),
        ("the denied field", _problem(denied) == "field-denied"),
        ("the limit", _problem(limited) == "rate-limited"),
        ("the backend beside a limited partner", meanwhile.status == 200),
        ("the explanation", explained.get("outcome") == "action-denied"),
        ("the confirmed revocation", confirmed.status == 201),
        ("the revoked token", _problem(revoked) == "token-revoked"),
    )
    return Acts(
        fields_of_backend=len(_fields(whole)),
        fields_of_partner=tuple(sorted(shown)),
        denied=f"{denied.status} {_problem(denied)}",
        limited_after=limited_after,
        ratelimit=limited.header("ratelimit"),
        retry_after_s=limited.header("retry-after"),
        backend_meanwhile=meanwhile.status,
        explained=_steps(explained),
        revoked=f"{revoked.status} {_problem(revoked)}",
        errors=tuple(what for what, is_so in expected if not is_so),
    )


async def _get(client: Client, stand: Stand, below: str, token: str) -> Response:
    url = urlsplit(stand.chat_url)
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    return await client.ask(request("GET", url.netloc, url.path + below, headers))


async def _post(operator: Client, stand: Stand, path: str, said: Mapping[str, object]) -> Response:
    headers = {"Authorization": f"Bearer {stand.stage.admin_token}"}
    body = json.dumps(said).encode()
    return await operator.ask(request("POST", f"127.0.0.1:{stand.admin_port}", path, headers, body))


async def _rush(client: Client, stand: Stand, token: str) -> tuple[int, Response]:
    """As fast as one connection can: how many were let through before the first 429, and that."""
    for passed in range(RUSH):
        response = await _get(client, stand, "/info", token)
        if response.status == 429:
            return passed, response
    raise Broken("no limit was met")


def _object(response: Response) -> dict[str, object]:
    try:
        said = json.loads(response.body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _fields(response: Response) -> list[str]:
    info = _object(response).get("info")
    return [name for name in info if name != "link"] if isinstance(info, dict) else []


def _problem(response: Response) -> str:
    return str(_object(response).get("type", "")).rpartition(":")[2]


def _steps(explained: Mapping[str, object]) -> tuple[str, ...]:
    steps = explained.get("steps")
    rows = steps if isinstance(steps, list) else []
    return tuple(f"{row['step']}: {row['says']}" for row in rows)
