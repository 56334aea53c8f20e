"""The Server Chat API, emulated: for the demo, the tests and the benchmarks.

`Emulator` is the service as a function from request to response on an injected clock, `serve` puts it behind
a socket, `run` is the command. It knows nothing of the gateway, so that no mistake of the gateway's can hide
in it.

The vendor's pages leave much open. These choices are inferred from samples and from the code of clients, or
are guesses; after each stands what flips it: a member of `Dialect`, or another place that is named.

- JSON of `info`, and of what has no sample, is natively typed; that of `chat`, `events` and `event` comes
  from XML (`@`, one is no array, none is no key, text may become a number): `styles`
- XML is that JSON without `@`, without a namespace; it is the default without `.json` or a known Accept
- NC changes nothing
- a real PUT is 405: `real_put`
- start chat is 201, not the page's 200: `start_status`; setting the name is 201: `name_status`
- no `v` is 400, code 5: `missing_version_status`
- no key is 401, code 10: `missing_key_status`; a wrong one too: `wrong_key_status`; a foreign scheme is 400,
  code 5: `foreign_scheme_status`; with a key in header and query the header counts
- an unknown account is 404, code 28: `unknown_account_status`
- a posted event is answered without a body: `event_body`; so is an override PUT
- `interactionTimeout` becomes `chatTimeout`: `interaction_timeout_counts`
- whatever is let in below a chat touches it, GETs and refused writes too, also when it has ended
- the agent does not touch it: `agent_touches`
- `duration` is in whole seconds, though samples show 0: `duration_counts`
- a chat dies exactly `chatTimeout` after `lastUpdate`, with system message 6
- an ended chat can be read for 60 s: `EmulatorConfig.ended_readable_s`; ending it again is 400, code 5
- pre-chat lines are the visitor's, with systemMessageId 0
- the base resource is a document and no redirect: `base_redirects`
- hrefs are well-formed, unlike some in samples: `malformed_links`
- there are no line-status events and no unknown members: `line_status`, `unknown_fields`
- 429, Retry-After, cookies, CORS and caching headers never come by themselves: `Fault`
- a conversation is 201 with both ids at the top of the body
- domain discovery requires `version=1.0`; an unknown account there is 401, code 10
"""

from gateway.emulator.chats import Event, UnknownChatError
from gateway.emulator.command import run
from gateway.emulator.config import MAPPED, NATIVE, AgentScript, Dialect, EmulatorConfig, JsonStyle
from gateway.emulator.faults import Fault
from gateway.emulator.messages import (
    Drip,
    Drop,
    EmulatorRequest,
    EmulatorResponse,
    Hang,
    Reset,
    Truncate,
    Whole,
)
from gateway.emulator.server import EmulatorServer, serve
from gateway.emulator.service import ChatState, CountKey, Counts, Emulator, WrongStateError

__all__ = [
    "MAPPED",
    "NATIVE",
    "AgentScript",
    "ChatState",
    "CountKey",
    "Counts",
    "Dialect",
    "Drip",
    "Drop",
    "Emulator",
    "EmulatorConfig",
    "EmulatorRequest",
    "EmulatorResponse",
    "EmulatorServer",
    "Event",
    "Fault",
    "Hang",
    "JsonStyle",
    "Reset",
    "Truncate",
    "UnknownChatError",
    "Whole",
    "WrongStateError",
    "run",
    "serve",
]
