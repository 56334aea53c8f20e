"""The search for what must never leave: the appKey, and the tokens of clients, in whatever spelling.

Who makes a secret has it watched. `tests.support` looks at all that leaves a world and at the gateway's own
objects, `tests/conftest.py` at what each test prints, logs and says when it fails.
"""

from __future__ import annotations

import base64
import gc
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from urllib.parse import quote

#: Of a secret in two pieces one is at least half of it; so much of either end is no chance.
HALF = 16
#: What one object of a class says of itself the others say too, or nearly.
OBJECTS_OF_A_CLASS = 10
#: The emulator stands for the vendor: it knows the key, and remembers what it was sent.
OUTSIDE = ("gateway.emulator", "gateway.demo")

#: What is searched for, each with its name.
WATCHED: dict[str, str] = {}
_LOOKED_AT: set[str] = set()


def watch(name: str, secret: str) -> str:
    """From now on nobody may see this; what is searched for, which of a token is its signature."""
    searched = secret.rpartition(".")[2] if secret.count(".") == 2 else secret
    WATCHED[searched] = name
    return searched


def is_new(module: str) -> bool:
    """Whether nobody has asked this about a module before."""
    is_new = module not in _LOOKED_AT
    _LOOKED_AT.add(module)
    return is_new


def forms(secret: str) -> dict[str, bytes]:
    """The spellings in which a secret can hide."""
    raw = secret.encode()
    spelled = {
        "plain": raw,
        "backwards": raw[::-1],
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": quote(secret, safe="").encode(),
        "url, small": quote(secret, safe="").lower().encode(),
        "url twice": quote(quote(secret, safe=""), safe="").encode(),
        "json": json.dumps(secret).replace("/", "\\/")[1:-1].encode(),
    }
    for before in range(3):
        # What stands before and after shares its characters with the first and the last byte or two.
        encoded = base64.b64encode(b"\0" * before + raw).rstrip(b"=")
        core = encoded[(0, 2, 3)[before] : len(encoded) - 1]
        spelled[f"base64 at {before}"] = core
        spelled[f"base64url at {before}"] = core.translate(bytes.maketrans(b"+/", b"-_"))
    return spelled


@lru_cache(maxsize=4096)
def pieces(secret: str) -> tuple[tuple[str, bytes], ...]:
    """What is left of a secret, whole or cut in two, in any of its spellings: either end."""
    found: dict[bytes, str] = {}
    for name, form in forms(secret).items():
        size = min(HALF, len(form) // 2)
        found.setdefault(form[:size], f"{name}, the beginning")
        found.setdefault(form[-size:], f"{name}, the end")
    return tuple((name, piece) for piece, name in found.items())


def seen(text: bytes, secrets: Iterable[str] | None = None) -> Iterator[str]:
    """What of the secrets, or of all that are watched, is in there. It is not said again."""
    if not text:
        # Most tests say nothing, three times each, and thousands of tokens are watched in the end.
        return
    for secret in tuple(WATCHED) if secrets is None else secrets:
        for form, piece in pieces(secret):
            if piece in text:
                yield f"{WATCHED.get(secret, 'a secret')} ({form})"
                break


def shown_by_objects(secrets: Iterable[str]) -> Iterator[str]:
    """The classes of the gateway whose objects show one of the secrets of themselves."""
    secrets = tuple(secrets)
    looked_at: dict[type, int] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if kind not in looked_at:
            module = str(kind.__module__)
            is_ours = module.startswith("gateway.") and not module.startswith(OUTSIDE)
            looked_at[kind] = 0 if is_ours else OBJECTS_OF_A_CLASS
        if looked_at[kind] < OBJECTS_OF_A_CLASS:
            looked_at[kind] += 1
            yield from (f"{kind.__qualname__} shows {what}" for what in seen(repr(thing).encode(), secrets))
