#!/usr/bin/env python3
"""A client of chat-gateway that needs nothing but Python 3.11.

    TOKEN=... python chat_gateway.py https://gateway.example/api/account/123/chat/ID poll
    TOKEN=... python chat_gateway.py https://gateway.example/api/account/123/chat/ID follow
    TOKEN=... python chat_gateway.py https://gateway.example/api/account/123/chat/ID say "Hello"

`poll` prints the chat's info whenever it has changed, `follow` each event as it happens, until the chat ends.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A stream says something every few seconds, even if there is no news. Who is silent for longer is gone.
SILENCE_S = 15.0
#: What is worth trying again: the gateway or the chat service has too much to do, or is not there for now.
TRY_AGAIN = frozenset({429, 502, 503, 504})
#: What a connection that breaks raises.
BROKEN = (OSError, http.client.HTTPException)


class Refused(Exception):
    """The gateway or the chat service says no. `problem` is the document that says why."""

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        super().__init__(f"{status}: {json.dumps(problem)}")
        self.status = status
        self.problem = problem
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Message:
    """One server-sent event. `kind` is event or info, or one of problem, closed and ended."""

    kind: str
    data: Any


@dataclass
class Position:
    """Where a stream is: what was had last, and how long to wait before coming back."""

    last_id: str = ""
    retry_s: float = 1.0
    may_return: bool = False


@dataclass
class Chat:
    """One chat, by its address. `token` is asked for each request, so that it can be a new one."""

    url: str
    token: Callable[[], str] = field(repr=False)

    def poll(self, every_s: float = 1.0) -> Iterator[Any]:
        """The chat's info, and again whenever it has changed, until the chat has ended or is gone."""
        etag = None
        failures = 0
        while True:
            pause_s = every_s
            try:
                with self._ask("/info", {"If-None-Match": etag} if etag else {}) as response:
                    failures = 0
                    etag = response.headers["ETag"]
                    info = json.load(response)["info"]
                yield info
                if info.get("state") == "ended":
                    return
            except Refused as refused:
                if refused.status == 404:
                    return
                if refused.status in TRY_AGAIN:
                    failures += 1
                    pause_s = max(pause_s, refused.retry_after_s or backoff(failures))
                elif refused.status != 304:
                    raise
            except BROKEN:
                failures += 1
                pause_s = max(pause_s, backoff(failures))
            time.sleep(pause_s)

    def follow(self, what: str = "events") -> Iterator[Message]:
        """What a stream tells, over as many connections as it takes, until the chat has ended."""
        at = Position()
        failures = 0
        while True:
            pause_s = None
            try:
                fields = {"Accept": "text/event-stream"} | (
                    {"Last-Event-ID": at.last_id} if at.last_id else {}
                )
                with self._ask(f"/{what}", fields) as response:
                    if response.status == 204:
                        return
                    for message in messages(response, at):
                        failures = 0
                        yield message
                        if message.kind == "ended":
                            return
                        if message.kind == "closed" and not at.may_return:
                            raise Refused(200, message.data)
            except Refused as refused:
                if refused.status not in TRY_AGAIN:
                    raise
                pause_s = refused.retry_after_s
            except BROKEN:
                pass
            failures += 1
            time.sleep(pause_s or max(at.retry_s * random.uniform(0.5, 1.0), backoff(failures - 1)))

    def say(self, text: str) -> str:
        """Add a line; returns its address. Not repeated by itself: it may have been said."""
        line = json.dumps({"event": {"@type": "line", "text": text}}).encode()
        with self._ask("/events", {"Content-Type": "application/json"}, line) as response:
            return str(response.headers["Location"])

    def _ask(self, path: str, fields: Mapping[str, str], body: bytes | None = None) -> Any:
        fields = {"Accept": "application/json", "Authorization": f"Bearer {self.token()}", **fields}
        request = urllib.request.Request(self.url + path, body, dict(fields))
        try:
            return urllib.request.urlopen(request, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(
                    error.code, problem_of(error.read()), seconds(error.headers.get("Retry-After"))
                ) from None


def messages(lines: Iterable[bytes], at: Position) -> Iterator[Message]:
    """The messages of one connection's stream (WHATWG HTML, 9.2)."""
    kind, number, data = "", at.last_id, []
    at.may_return = False
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            number = value
        elif name == "retry" and value.isdecimal():
            at.retry_s, at.may_return = int(value) / 1000, True
        elif not name and not value and data:
            # An empty line ends a message; a comment, which begins with a colon, only says that it goes on.
            # Only now it is whole, and had.
            at.last_id = number
            yield Message(kind or "message", json.loads("\n".join(data)))
            kind, data, at.may_return = "", [], False


def backoff(failures: int) -> float:
    """Seconds: twice as long each time, up to half a minute, and never in step with others."""
    return min(30.0, 0.5 * 2.0**failures) * random.uniform(0.5, 1.0) if failures else 0.0


def seconds(retry_after: str | None) -> float | None:
    """What Retry-After says, if it is there."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None


def problem_of(body: bytes) -> Mapping[str, Any]:
    """A problem document, or the chat service's own error."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chat", help="address of a chat")
    parser.add_argument("verb", choices=["poll", "follow", "say"])
    parser.add_argument("text", nargs="?", default="")
    said = parser.parse_args()
    chat = Chat(said.chat, lambda: os.environ["TOKEN"])
    if said.verb == "say":
        print(chat.say(said.text))
    elif said.verb == "poll":
        for info in chat.poll():
            print(info["state"], json.dumps(info), flush=True)
    else:
        for message in chat.follow():
            print(message.kind, json.dumps(message.data), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(str(refused))
