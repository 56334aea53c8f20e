"""The keys of an issuer, from a file that is ours or as the issuer publishes them.

A file (JWKS, RFC 7517 §5; PEM, RFC 7468; or one raw secret) with an unfit key is refused whole, with every
fault named: its owner can mend it, and a key that is skipped in silence fails later, and elsewhere. What an
issuer publishes nobody here can mend, and it is for others, too: there unfit keys are left out, as RFC 7517
has it, and named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.identity.documents import read_object, type_name
from gateway.identity.keys import HMAC_ALGORITHMS, Faults, Key, key_from_jwk, key_from_pem, key_from_secret

MAX_BYTES = 256 * 1024
MAX_KEYS = 100

_BEGIN = b"-----BEGIN "
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
#: All of a fit JWK that makes a difference to the tokens it vouches for.
_TELLING = ("alg", "crv", "e", "kid", "kty", "n", "x", "y")
_LAST_NEWLINE = re.compile(rb"\r?\n\Z")


class KeySetError(ValueError):
    """A key set was refused. `faults` has a sentence for each thing that is wrong with it."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys of an issuer at one time. Two sets are the same only when they are one object.

    Of a published set, `left_out` says which keys are not in it and why, and `digest` is the same for the
    same keys in any order.
    """

    keys: tuple[Key, ...]
    left_out: tuple[str, ...] = ()
    digest: bytes = b""

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The one key that `kid` and `algorithm` name. None unless they name exactly one.

        A key without a kid, as from PEM, is alone in its set for its algorithms: it goes by any name.
        """
        fitting = (key for key in self.keys if algorithm in key.algorithms)
        named = [key for key in fitting if kid is None or key.kid in {None, kid}]
        return named[0] if len(named) == 1 else None


def parse_key_set(data: bytes, algorithms: frozenset[str]) -> KeySet:
    """The set that a JWKS document or a PEM file holds, for an issuer that lists `algorithms`.

    Keys from PEM have no kid. Raises KeySetError with all faults.
    """
    _check_size(data)
    if data.lstrip().startswith(b"{"):
        outcomes = _read_items(_jwks_items(data), algorithms)
    elif _BEGIN in data:
        outcomes = _read_pem(data, algorithms)
    else:
        raise KeySetError(["expected a JWKS document (a JSON object) or PEM, got neither"])
    return _key_set(outcomes)


def parse_published(data: bytes, algorithms: frozenset[str]) -> KeySet:
    """The fit keys of a JWKS document that an issuer publishes, secrets never among them.

    Raises KeySetError when it is no JWKS, or no key is fit.
    """
    _check_size(data)
    items = _jwks_items(data)
    placed, faults = _sorted_out(_read_items(items, algorithms - HMAC_ALGORITHMS))
    for conflicts in (_sharing_kids, _missing_kids):
        unclear = dict(conflicts(placed))
        placed = [(where, key) for where, key in placed if where not in unclear]
        faults += _sentences(unclear.items())
    if not placed:
        raise KeySetError(faults)
    digest = _digest(items[where] for where, _ in placed)
    return KeySet(tuple(key for _, key in placed), tuple(faults), digest)


def _digest(items: Iterable[object]) -> bytes:
    told = [{name: item.get(name) for name in _TELLING} for item in items if isinstance(item, dict)]
    return hashlib.sha256("\n".join(sorted(map(json.dumps, told))).encode()).digest()


def parse_secret(data: bytes) -> KeySet:
    """The set of one HS256 secret: all bytes of its file but one last newline, which editors add.

    Raises KeySetError.
    """
    _check_size(data)
    if _BEGIN in data or _is_object(data):
        # As a secret, a public key would let everyone sign who has read it.
        raise KeySetError(["secret: expected random bytes, got PEM or JSON"])
    return _key_set([("secret", key_from_secret(strip_newline(data)))])


def _is_object(data: bytes) -> bool:
    try:
        return bool(read_object(data))
    except ValueError:
        return False


def strip_newline(data: bytes) -> bytes:
    return _LAST_NEWLINE.sub(b"", data)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise KeySetError([f"expected at most {MAX_BYTES} bytes, got more"])


_Outcomes = Sequence[tuple[str, Key | Faults]]  # (where in the document, what was there)


def _jwks_items(data: bytes) -> Mapping[str, object]:
    try:
        jwks = read_object(data)
    except ValueError as error:
        raise KeySetError([f"JWKS: {error}"]) from None
    items = jwks.get("keys")
    if not isinstance(items, list):
        raise KeySetError([f"keys: expected an array, got {type_name(items)}"])
    _check_count(len(items))
    return {f"keys[{index}]": item for index, item in enumerate(items)}


def _read_items(items: Mapping[str, object], algorithms: frozenset[str]) -> _Outcomes:
    return [(where, key_from_jwk(item, algorithms)) for where, item in items.items()]


def _read_pem(data: bytes, algorithms: frozenset[str]) -> _Outcomes:
    """RFC 7468 allows text around the blocks, and openssl writes some."""
    if len(blocks := list(_BLOCK.finditer(data))) != data.count(_BEGIN):
        raise KeySetError(["PEM: expected an END for each BEGIN, got a block that is cut short"])
    _check_count(len(blocks))
    return [
        (f"PEM block {number}", key_from_pem(block[1].decode(), block[0], algorithms))
        for number, block in enumerate(blocks, start=1)
    ]


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_KEYS:
        raise KeySetError([f"expected 1 to {MAX_KEYS} keys, got {count}"])


def _key_set(outcomes: _Outcomes) -> KeySet:
    keys, faults = _sorted_out(outcomes)
    faults += [*_sentences(_doubled_kids(keys)), *_sentences(_missing_kids(keys)), *_mixture(keys)]
    if faults:
        raise KeySetError(faults)
    return KeySet(tuple(key for _, key in keys))


_Placed = Sequence[tuple[str, Key]]
_Conflicts = Iterable[tuple[str, str]]  # (where, what is wrong there)


def _sorted_out(outcomes: _Outcomes) -> tuple[_Placed, list[str]]:
    """The fit keys, and what is wrong with the others."""
    keys = [(where, found) for where, found in outcomes if isinstance(found, Key)]
    unfit = [(where, found) for where, found in outcomes if not isinstance(found, Key)]
    return keys, [f"{where}: {fault}" for where, faults in unfit for fault in faults]


def _sentences(conflicts: _Conflicts) -> Iterable[str]:
    return (f"{where}: {fault}" for where, fault in conflicts)


def _doubled_kids(keys: _Placed) -> _Conflicts:
    first: dict[str, str] = {}
    for where, key in keys:
        if key.kid is not None and first.setdefault(key.kid, where) != where:
            yield where, f"expected a kid of its own, got that of {first[key.kid]}"


def _sharing_kids(keys: _Placed) -> _Conflicts:
    """Like `_doubled_kids`, but all who share one: nobody here can tell which is meant, or mend it."""
    times = Counter(key.kid for _, key in keys if key.kid is not None)
    for where, key in keys:
        if key.kid is not None and times[key.kid] > 1:
            yield where, f"expected a kid of its own, got one that {times[key.kid]} keys have"


def _missing_kids(keys: _Placed) -> _Conflicts:
    fitting = Counter(algorithm for _, key in keys for algorithm in key.algorithms)
    for where, key in keys:
        shared = sorted(algorithm for algorithm in key.algorithms if fitting[algorithm] > 1)
        if key.kid is None and shared:
            yield where, f"expected a kid, as another key fits {', '.join(shared)} too; got none"


def _mixture(keys: _Placed) -> Iterable[str]:
    if len({key.symmetric for _, key in keys}) > 1:
        yield "expected either public keys or secrets (oct), got both"


class KeyFile:
    """The key set in a file.

    `kind` is "keys" for JWKS or PEM, "secret" for a raw HS256 secret. Raises KeySetError when the file is
    unfit or cannot be read. Blocks while it reads.
    """

    def __init__(
        self, path: Path, algorithms: frozenset[str], kind: Literal["keys", "secret"] = "keys"
    ) -> None:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
            self.current = _parse_file(content, algorithms, kind)
        except OSError as error:
            raise KeySetError([f"{path}: expected a file that can be read, got: {error.strerror}"]) from None
        except KeySetError as error:
            raise KeySetError(f"{path}: {fault}" for fault in error.faults) from None
        self._digest = hashlib.sha256(content).digest()

    def adopt(self, read: KeyFile) -> bool:
        """Take over what was read anew; whether it is something else.

        Where it is not, the set stays the same object, and what it vouched for stays good.
        """
        if read._digest == self._digest:
            return False
        self.current, self._digest = read.current, read._digest
        return True

    async def renew(self) -> None:
        """Nothing: a file is looked at often enough."""


def _parse_file(content: bytes, algorithms: frozenset[str], kind: Literal["keys", "secret"]) -> KeySet:
    if kind == "keys":
        return parse_key_set(content, algorithms)
    if algorithms.isdisjoint(HMAC_ALGORITHMS):
        raise KeySetError(["secret: expected an issuer that lists HS256, got one that does not"])
    return parse_secret(content)
