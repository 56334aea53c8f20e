"""What commands say to a running gateway's private listener."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16_777_216


class CallFailed(Exception):
    """There is no answer to show; the message is a sentence for the operator, without the token."""


def call(
    address: tuple[str, int],
    token: str | None,
    method: str,
    path: str,
    said: object = None,
    *,
    certificate_file: Path | None = None,
) -> tuple[int, object]:
    """The status and the JSON of an answer. `said` is sent as JSON, unless it is None.

    With a `certificate_file` over TLS, and only to who shows that certificate. Raises CallFailed. No silence
    may last longer than `TIMEOUT_S`.
    """
    where = _where(address)
    with _calling(address, token, method, path, said=said, certificate_file=certificate_file) as response:
        body = _whole(response, where)
    return response.status, _parsed(body, where)


@contextlib.contextmanager
def following(
    address: tuple[str, int], token: str | None, path: str, *, certificate_file: Path | None = None
) -> Iterator[tuple[int, object, Iterator[tuple[str, Any]]]]:
    """The status of a GET, and the messages that go on: each with its event and the JSON of its data.

    What is answered instead comes with its JSON, and no messages. Raises CallFailed, also from the messages.
    """
    where = _where(address)
    with _calling(address, token, "GET", path, certificate_file=certificate_file) as response:
        if response.headers.get_content_type() == "text/event-stream":
            yield response.status, None, _messages(response, where)
        else:
            yield response.status, _parsed(_whole(response, where), where), iter(())


@contextlib.contextmanager
def _calling(
    address: tuple[str, int],
    token: str | None,
    method: str,
    path: str,
    *,
    said: object = None,
    certificate_file: Path | None,
) -> Iterator[http.client.HTTPResponse]:
    where = _where(address)
    connection = _connection(address, certificate_file)
    try:
        connection.request(method, path, _body(said), _fields(token))
        # A response that ends with its connection outlives it, unless it is closed.
        with connection.getresponse() as response:
            yield response
    except TimeoutError:
        raise CallFailed(f"{where} did not answer within {TIMEOUT_S:g} s") from None
    except ssl.SSLError:
        raise CallFailed(f"{where} does not show the certificate of admin_tls.certificate_file") from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise CallFailed(f"cannot reach the private listener at {where}: {why}") from None
    except (http.client.HTTPException, ValueError):
        # Their messages quote what was sent, the token among it.
        raise CallFailed(f"{where} does not speak as a private listener does") from None
    finally:
        connection.close()


def _whole(response: http.client.HTTPResponse, where: str) -> bytes:
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise CallFailed(f"expected at most {MAX_ANSWER_BYTES} bytes from {where}, got more")
    return body


def _messages(response: http.client.HTTPResponse, where: str) -> Iterator[tuple[str, Any]]:
    event = "message"
    while line := response.readline(MAX_ANSWER_BYTES):
        name, _, value = line.rstrip(b"\r\n").partition(b": ")
        if name == b"event":
            event = value.decode(errors="replace")
        elif name == b"data":
            yield event, _parsed(value, where)


def _connection(address: tuple[str, int], certificate_file: Path | None) -> http.client.HTTPConnection:
    if certificate_file is None:
        return http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    try:
        context = ssl.create_default_context(cafile=certificate_file)
    except OSError as error:
        raise CallFailed(f"{certificate_file}: {error.strerror or 'no certificates'}") from None
    # It is called by an address, and its very certificate is at hand: what name is in it tells nothing more.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(*address, timeout=TIMEOUT_S, context=context)


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
