"""What is another thing has another name, and what is of another format is never met."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.messages import Chat, Representation
from gateway.core.paths import Target
from gateway.core.policy import Resource
from gateway.shared.names import FORMAT, Names, Place, chat_of, field_of, place_of

CHAT = Chat("123", "H-1")
INFO = Resource("info", (), {"GET": "chat:read"}, {}, tuple(Representation), coalesce=True, cache=None)
PATH = "/api/account/123/chat/H-1/info"
TARGET = Target("GET", "123", CHAT, INFO, Representation.JSON, PATH, "a=1", dropped=False)


def test_names_are_as_other_replicas_of_this_format_know_them() -> None:
    # Whoever changes one of these, or what is in them, raises the format's number.
    assert FORMAT == 1
    names = Names("chat-gateway")
    place = Place("a9121d4031fdf7a96961cf6419ed17fa", "d83719ff266f5ba2")
    assert place_of(TARGET, b"common") == place
    assert [
        names.chat(place.chat),
        names.replicas,
        names.writes,
        names.limits("partner"),
        names.day(20_000),
        names.replicas_of_day(20_000),
        names.revocations,
        names.revocations_version,
        names.revocations_order,
        names.revocations_over,
        names.all,
        names.inbox("b7"),
    ] == [
        "chat-gateway:1:chat:a9121d4031fdf7a96961cf6419ed17fa",
        "chat-gateway:1:replicas",
        "chat-gateway:1:writes",
        "chat-gateway:1:limits:partner",
        "chat-gateway:1:day:20000",
        "chat-gateway:1:day:20000:replicas",
        "chat-gateway:revocations:1",
        "chat-gateway:revocations:1:version",
        "chat-gateway:revocations:1:order",
        "chat-gateway:revocations:1:over",
        "chat-gateway:1:all",
        "chat-gateway:1:to:b7",
    ]


@pytest.mark.parametrize(
    "other",
    [
        replace(TARGET, path=PATH + "s"),
        replace(TARGET, query="a=2"),
        replace(TARGET, query=""),
        replace(TARGET, representation=Representation.XML),
    ],
)
def test_each_target_of_a_chat_has_a_field_of_its_own(other: Target) -> None:
    here, there = place_of(TARGET, b"common"), place_of(other, b"common")
    assert here.chat == there.chat == chat_of(CHAT)
    assert here.field != there.field
    assert there.field == field_of(other.key, b"common")


def test_what_replicas_do_not_have_in_common_they_do_not_share() -> None:
    assert place_of(TARGET, b"other").field != place_of(TARGET, b"common").field


@pytest.mark.parametrize("other", [Chat("123", "H-2"), Chat("1", "23/H-1"), Chat("12", "3H-1")])
def test_each_chat_has_a_key_of_its_own(other: Chat) -> None:
    assert chat_of(other) != chat_of(CHAT)


def test_what_is_of_no_chat_has_a_key_of_its_own() -> None:
    account = replace(TARGET, chat=None, path="/api/account/123")
    skills = replace(TARGET, chat=None, path="/api/account/123/skills")
    assert len({place_of(it, b"").chat for it in (TARGET, account, skills)}) == 3


def test_one_prefix_is_nothing_to_another() -> None:
    assert not set(vars(Names("a")).values()) & set(vars(Names("b")).values())
