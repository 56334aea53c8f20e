"""The clients of docs/examples/clients at work with a gateway: polls, streams and lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from tests.docs.clients import Running, started
from tests.openapi.ground import Ground, ground
from tests.support import chat_path, short_lived


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("ground")
    with ground(folder, environ=short_lived(folder)) as it:
        yield it


def test_a_line_is_said(here: Ground, command: Sequence[str]) -> None:
    chat = here.chat()
    with started(command, here.url + chat_path(chat), here.token, "say", 'Say "hi" \\ bye') as client:
        said = client.rest().strip()
    state = here.do(lambda it: it.emulator.chat(chat))
    assert 'Say "hi" \\ bye' in [event.fields.get("text") for event in state.events]
    assert said.endswith(chat_path(chat, f"/events/{state.events[-1].id}"))


def test_what_is_refused_is_told(here: Ground, command: Sequence[str]) -> None:
    for verb in ("say", "follow", "poll"):
        with started(command, here.url + chat_path(here.chat()), "no-token", verb, "x") as client:
            client.rest()
            assert client.process.returncode not in (0, None)


def test_a_poll_tells_what_changes(here: Ground, commands: dict[str, Sequence[str]]) -> None:
    """All clients at once, as each polls once a second."""
    chat = here.chat()
    with ExitStack() as stack:
        url = here.url + chat_path(chat)
        clients = [
            stack.enter_context(started(command, url, here.token, "poll")) for command in commands.values()
        ]
        assert [polled(client)["agentTyping"] for client in clients] == ["not-typing"] * len(clients)
        here.do(lambda it: it.emulator.agent_typing(chat))
        assert [polled(client)["agentTyping"] for client in clients] == ["typing"] * len(clients)
        here.do(lambda it: it.emulator.end(chat))
        assert [polled(client)["state"] for client in clients] == ["ended"] * len(clients)
        assert [client.rest() for client in clients] == [""] * len(clients)
        assert [client.process.returncode for client in clients] == [0] * len(clients)


def polled(client: Running) -> Any:
    """The next info that a client prints: curl's as it came, the others' with the state before it."""
    assert client.process.stdout is not None
    line = client.process.stdout.readline()
    said = json.loads(line[line.index("{") :])
    return said.get("info", said)


def test_a_stream_is_followed_to_its_end(here: Ground, commands: dict[str, Sequence[str]]) -> None:
    chat = here.chat()
    with ExitStack() as stack:
        url = here.url + chat_path(chat)
        clients = [
            stack.enter_context(started(command, url, here.token, "follow")) for command in commands.values()
        ]
        already = len(here.do(lambda it: it.emulator.chat(chat)).events)
        first = [[client.line()[1]["@id"] for _ in range(already)] for client in clients]
        assert first == [[str(number) for number in range(already)]] * len(clients)
        here.do(lambda it: it.emulator.agent_line(chat, "Hello"))
        assert [client.line()[1]["text"] for client in clients] == ["Hello"] * len(clients)
        here.do(lambda it: it.emulator.end(chat))
        for client in clients:
            *_, last = client.rest().splitlines()
            kind, _, document = last.partition(" ")
            assert (kind, json.loads(document)) == ("ended", {"reason": "ended"})
            assert client.process.returncode == 0
