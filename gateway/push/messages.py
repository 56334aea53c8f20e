"""The wire format of server-sent events (WHATWG HTML, §9.2.5 and §9.2.6)."""

from __future__ import annotations

import re

#: A comment: it keeps proxies from taking the stream for dead, and shows who no longer reads.
HEARTBEAT = b":\n\n"

_LINE_END = re.compile(rb"\r\n|\r|\n")


def message(event: bytes, data: bytes, *, id: bytes | None = None, retry_ms: int | None = None) -> bytes:  # noqa: A002 - the field's name
    """One message; its reader gets the lines of `data` back with LF between them.

    An id that no field can hold is left out, so that the one before it stands. `retry_ms` is when to come
    back, in milliseconds.
    """
    lines = [] if retry_ms is None else [b"retry: %d" % retry_ms]
    lines.append(b"event: " + event)
    if id is not None and not any(byte in id for byte in b"\0\r\n"):
        lines.append(b"id: " + id)
    lines += [b"data: " + line for line in _LINE_END.split(data)]
    return b"\n".join((*lines, b"", b""))
