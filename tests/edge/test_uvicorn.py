"""What gateway/edge/protocol.py knows of uvicorn's inside, for that is promised to nobody.

When a new uvicorn fails here, read what changed, then what `Connection` and `Cycle` override or rely on, and
only then write the new hashes down.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import re
from collections import deque

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.edge.protocol import Connection, Cycle

REVIEWED = {
    HttpToolsProtocol: "18fdf324b11bf160",
    RequestResponseCycle: "e67d470d435dcc1c",
    FlowControl: "126debcdaa894c83",
}
#: What is called or overridden, and the parameters that are relied on.
METHODS = {
    HttpToolsProtocol: {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "on_message_begin": ["self"],
        "on_url": ["self", "url"],
        "on_header": ["self", "name", "value"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
        "on_response_complete": ["self"],
        "send_400_response": ["self", "msg"],
        "shutdown": ["self"],
        "timeout_keep_alive_handler": ["self"],
        "_start_asgi_task": ["self", "cycle", "app"],
        "_unset_keepalive_if_required": ["self"],
    },
    RequestResponseCycle: {
        "__init__": [
            "self",
            "scope",
            "transport",
            "flow",
            "logger",
            "access_logger",
            "access_log",
            "default_headers",
            "message_event",
            "expect_100_continue",
            "keep_alive",
            "on_response",
        ],
        "run_asgi": ["self", "app"],
    },
    FlowControl: {"drain": ["self"], "pause_reading": ["self"], "resume_reading": ["self"]},
}


@pytest.mark.parametrize("kind", REVIEWED, ids=lambda kind: kind.__name__)
def test_the_source_is_what_was_read(kind: type) -> None:
    found = hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    assert found == REVIEWED[kind], (
        f"uvicorn {uvicorn.__version__}: gateway/edge/protocol.py was not written for this {kind.__name__} "
        f"(expected source {REVIEWED[kind]}, got {found}); re-read what Connection and Cycle override there"
    )


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_methods_have_their_parameters(kind: type) -> None:
    found = {name: list(inspect.signature(getattr(kind, name)).parameters) for name in METHODS[kind]}
    assert found == METHODS[kind]


def test_attributes_are_there_from_the_start() -> None:
    async def of_both() -> tuple[HttpToolsProtocol, RequestResponseCycle]:
        config = uvicorn.Config(lambda: None, interface="asgi3", lifespan="off", log_config=None)
        loop = asyncio.get_running_loop()
        made = HttpToolsProtocol(config, ServerState(), {}, loop)
        made.connection_made(asyncio.Transport())
        cycle = RequestResponseCycle(
            scope=None,  # type: ignore[arg-type]  # as the edge makes it
            transport=made.transport,
            flow=made.flow,
            logger=made.logger,
            access_logger=made.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=True,
            keep_alive=True,
            on_response=made.on_response_complete,
        )
        return made, cycle

    made, cycle = asyncio.run(of_both())
    # Nothing is being answered, so the short cut may answer.
    assert vars(made)["cycle"] is None
    assert made.timeout_keep_alive_task is None
    assert made.timeout_keep_alive == 5
    assert made.pipeline == deque()
    assert isinstance(made.flow, FlowControl)
    assert (made.flow.read_paused, made.flow.write_paused) == (False, False)
    assert isinstance(made.logger, logging.Logger)
    assert made.client is None
    assert (cycle.more_body, cycle.disconnected, cycle.keep_alive) == (True, False, True)
    assert (cycle.response_started, cycle.response_complete, bytes(cycle.body)) == (False, False, b"")
    assert cycle.waiting_for_100_continue
    assert HIGH_WATER_LIMIT == 65_536


@pytest.mark.parametrize(("ours", "theirs"), [(Connection, HttpToolsProtocol), (Cycle, RequestResponseCycle)])
def test_what_is_ours_alone_is_named_as_nothing_of_theirs(ours: type, theirs: type) -> None:
    assert issubclass(ours, theirs)
    names = {name for name in vars(ours) if name.startswith("_") and not name.startswith("__")}
    assert names
    source = inspect.getsource(theirs)
    assert not [name for name in names if re.search(rf"\b{name}\b", source)]
