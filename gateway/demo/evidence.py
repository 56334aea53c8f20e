"""What answers must never have in them: the appKey, and links that lead past the gateway."""

from __future__ import annotations

import base64
import re

from gateway.demo.wire import Response

_HREF = re.compile(rb'"@?href"\s*:\s*"([^"]*)"')


def spellings(key: bytes) -> frozenset[bytes]:
    """A key as it is, in hex, percent-encoded, and in base64 at each of the three places it may stand at."""
    encoded = "".join(f"%{byte:02x}" for byte in key).encode()
    forms = {key, key.hex().encode(), key.hex().upper().encode(), encoded, encoded.upper()}
    for before in range(3):
        # Six bits a character: those that share bits with what stands before or after are left out.
        text = base64.b64encode(b"\0" * before + key)
        inner = text[(before * 8 + 5) // 6 : (before + len(key)) * 8 // 6]
        forms |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(forms)


class Evidence:
    """Looks for the key in everything that comes, and at every link."""

    def __init__(self, key: bytes, public_url: str) -> None:
        self._key = re.compile(b"|".join(map(re.escape, sorted(spellings(key)))))
        self._public = public_url.encode() + b"/"
        self.responses = 0
        self.bytes = 0
        self.keys_seen = 0
        self.keys_in_log = 0
        self.links = 0
        self.foreign_links = 0

    def take(self, response: Response) -> None:
        """Look at an answer, head and body."""
        self.responses += 1
        self.bytes += len(response.head) + len(response.body)
        self.keys_seen += self.count_keys(response.head + response.body)
        links = [*_HREF.findall(response.body), *filter(None, [response.header("location").encode()])]
        self.links += len(links)
        self.foreign_links += sum(not link.startswith(self._public) for link in links)

    def take_log(self, text: bytes) -> None:
        """Look at what the gateway logged."""
        self.keys_in_log += self.count_keys(text)

    @property
    def errors(self) -> dict[str, int]:
        """What was found that must not be there."""
        found = {
            "appKey in an answer": self.keys_seen,
            "appKey in the log": self.keys_in_log,
            "link past the gateway": self.foreign_links,
        }
        return {kind: count for kind, count in found.items() if count}

    def count_keys(self, text: bytes) -> int:
        """How often the key is in a text, in any spelling."""
        return len(self._key.findall(text))
