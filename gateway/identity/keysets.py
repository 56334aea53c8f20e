"""The keys of an issuer: read as a whole, refused as a whole, and read again when their file changes.

A set (JWKS, RFC 7517 §5; PEM, RFC 7468; or one raw secret) with an unfit key is refused with every
fault named. RFC 7517 would skip what it does not know; a key that is skipped in silence fails later,
and elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.identity.documents import read_object, type_name
from gateway.identity.keys import HMAC_ALGORITHMS, Faults, Key, key_from_jwk, key_from_pem, key_from_secret

MAX_BYTES = 256 * 1024
MAX_KEYS = 100

_BEGIN = b"-----BEGIN "
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_LAST_NEWLINE = re.compile(rb"\r?\n\Z")


class KeySetError(ValueError):
    """A key set was refused. `faults` has a sentence for each thing that is wrong with it."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys of an issuer at one time. Two sets are the same only when they are one object."""

    keys: tuple[Key, ...]

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
        outcomes = _read_jwks(data, algorithms)
    elif _BEGIN in data:
        outcomes = _read_pem(data, algorithms)
    else:
        raise KeySetError(["expected a JWKS document (a JSON object) or PEM, got neither"])
    return _key_set(outcomes)


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


_Outcomes = Sequence[tuple[str, Key | Faults]]  # (where in the file, what was there)


def _read_jwks(data: bytes, algorithms: frozenset[str]) -> _Outcomes:
    try:
        jwks = read_object(data)
    except ValueError as error:
        raise KeySetError([f"JWKS: {error}"]) from None
    items = jwks.get("keys")
    if not isinstance(items, list):
        raise KeySetError([f"keys: expected an array, got {type_name(items)}"])
    _check_count(len(items))
    return [(f"keys[{index}]", key_from_jwk(item, algorithms)) for index, item in enumerate(items)]


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
    keys = [(where, found) for where, found in outcomes if isinstance(found, Key)]
    unfit = [(where, found) for where, found in outcomes if not isinstance(found, Key)]
    faults = [f"{where}: {fault}" for where, faults in unfit for fault in faults]
    faults += [*_doubled_kids(keys), *_missing_kids(keys), *_mixture(keys)]
    if faults:
        raise KeySetError(faults)
    return KeySet(tuple(key for _, key in keys))


_Placed = Sequence[tuple[str, Key]]


def _doubled_kids(keys: _Placed) -> Iterable[str]:
    first: dict[str, str] = {}
    for where, key in keys:
        if key.kid is not None and first.setdefault(key.kid, where) != where:
            yield f"{where}: expected a kid of its own, got that of {first[key.kid]}"


def _missing_kids(keys: _Placed) -> Iterable[str]:
    fitting = Counter(algorithm for _, key in keys for algorithm in key.algorithms)
    for where, key in keys:
        shared = sorted(algorithm for algorithm in key.algorithms if fitting[algorithm] > 1)
        if key.kid is None and shared:
            yield f"{where}: expected a kid, as another key fits {', '.join(shared)} too; got none"


def _mixture(keys: _Placed) -> Iterable[str]:
    if len({key.symmetric for _, key in keys}) > 1:
        yield "expected either public keys or secrets (oct), got both"


class KeyFile:
    """The key set in a file, as it was when last it was fit.

    `kind` is "keys" for JWKS or PEM, "secret" for a raw HS256 secret. Raises KeySetError when the
    file is unfit or cannot be read at the start; later the last good set stays.
    """

    def __init__(
        self, path: Path, algorithms: frozenset[str], kind: Literal["keys", "secret"] = "keys"
    ) -> None:
        self.path = path
        self.current: KeySet
        self._algorithms = algorithms
        self._kind = kind
        self._seen: bytes | str | None = None
        outcome = self.refresh()
        if isinstance(outcome, KeySetError):
            raise outcome

    def refresh(self) -> KeySet | KeySetError | None:
        """Reads the file again: the new `current`, or why the old one stays, or None if nothing changed.

        A fault is told once. Content is compared, not times: a mounted volume changes by swapping a
        symlink. Blocks while it reads.
        """
        content = self._read()
        seen = hashlib.sha256(content).digest() if isinstance(content, bytes) else str(content)
        if seen == self._seen:
            return None
        self._seen = seen
        outcome = self._parse(content) if isinstance(content, bytes) else content
        if isinstance(outcome, KeySet):
            self.current = outcome
        return outcome

    def _read(self) -> bytes | KeySetError:
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            return KeySetError([f"{self.path}: expected a file that can be read, got: {error.strerror}"])

    def _parse(self, content: bytes) -> KeySet | KeySetError:
        try:
            return self._parse_kind(content)
        except KeySetError as error:
            return KeySetError(f"{self.path}: {fault}" for fault in error.faults)

    def _parse_kind(self, content: bytes) -> KeySet:
        if self._kind == "keys":
            return parse_key_set(content, self._algorithms)
        if self._algorithms.isdisjoint(HMAC_ALGORITHMS):
            raise KeySetError(["secret: expected an issuer that lists HS256, got one that does not"])
        return parse_secret(content)
