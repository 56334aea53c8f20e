"""What commands say to a running gateway's private listener."""

from __future__ import annotations

import http.client
import json

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16_777_216


class CallFailed(Exception):
    """There is no answer to show; the message is a sentence for the operator, without the token."""


def call(
    address: tuple[str, int], token: str | None, method: str, path: str, said: object = None
) -> tuple[int, object]:
    """The status and the JSON of an answer. `said` is sent as JSON, unless it is None.

    Raises CallFailed. No silence may last longer than `TIMEOUT_S`.
    """
    where = _where(address)
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, _body(said), _fields(token))
        # A response that ends with its connection outlives it, unless it is closed.
        with connection.getresponse() as response:
            body = response.read(MAX_ANSWER_BYTES + 1)
    except TimeoutError:
        raise CallFailed(f"{where} did not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CallFailed(f"cannot reach the private listener at {where}: {why}") from None
    except (http.client.HTTPException, ValueError):
        # Their messages quote what was sent, the token among it.
        raise CallFailed(f"{where} does not speak as a private listener does") from None
    finally:
        connection.close()
    if len(body) > MAX_ANSWER_BYTES:
        raise CallFailed(f"expected at most {MAX_ANSWER_BYTES} bytes from {where}, got more")
    return response.status, _parsed(body, where)


def _where(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _body(said: object) -> bytes | None:
    return None if said is None else json.dumps(said).encode()


def _fields(token: str | None) -> dict[str, str]:
    fields = {"accept": "application/json", "content-type": "application/json"}
    if token is not None:
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise CallFailed("the token must be printable ASCII without spaces")
        fields["authorization"] = f"Bearer {token}"
    return fields


def _parsed(body: bytes, where: str) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        raise CallFailed(f"expected JSON from {where}, got something else: is it admin_listen?") from None
    return value
