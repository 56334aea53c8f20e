"""A thousand clients, each with its own token, ask for one cold chat at once: `python -m tests.shows.cold`.

Prints one JSON line. `after_upstream_ms` is how long after the upstream's answer the last client had its
own. The upstream answers `UPSTREAM_S` (or, if it hangs, not before the deadline) after it got the request,
which is when the chat was last touched.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import uvloop

from gateway.demo.wire import Broken, Client, Response
from tests.shows.stand import HOST, UPSTREAM_S, Stand, asking, info_path, two_processes

CLIENTS = 1_000
LIMIT_MS = 250.0
SETTLE_S = 0.5
DEADLINE_S = 5.0
BOTH = ("application/json", "application/xml")


def nobody(_: int) -> Mapping[int, float]:
    return {}


def the_first(_: int) -> Mapping[int, float]:
    return {0: 0.050}


def nine_of_ten(clients: int) -> Mapping[int, float]:
    chance = random.Random(1)
    return {index: chance.uniform(0, 0.150) for index in chance.sample(range(clients), clients * 9 // 10)}


@dataclass(frozen=True, slots=True)
class Variant:
    """What happens upstream, who leaves when (seconds), and what everybody else then gets."""

    fault: Mapping[str, object] = field(default_factory=dict)
    leaving: Callable[[int], Mapping[int, float]] = nobody
    accepts: tuple[str, ...] = BOTH[:1]
    upstream_s: float = UPSTREAM_S
    status: int = 200


#: A reset comes first, while there is no kept connection: on one of those a read is worth a second request
#: upstream. A 429 comes last, since it pauses the whole account.
VARIANTS = {
    "resets": Variant({"reset_after": 0}, status=502),
    "200": Variant(),
    "404": Variant({"status": 404, "code": 12}, status=404),
    "500": Variant({"status": 500}, status=502),
    "no-store": Variant({"headers": {"cache-control": "no-store"}}),
    "broken body": Variant({"body": '{"info": {"state": '}, status=502),
    "first hangs up": Variant(leaving=the_first),
    "nine of ten hang up": Variant(leaving=nine_of_ten),
    "XML and JSON": Variant(accepts=BOTH),
    "hangs": Variant({"hang": True}, upstream_s=DEADLINE_S, status=504),
    "429": Variant({"status": 429, "retry_after": "1"}, status=503),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a variant."""

    upstream_requests: int
    answered: int
    statuses: Mapping[int, int]
    distinct_bodies: int
    after_upstream_ms: float

    def is_as(self, variant: Variant, clients: int) -> bool:
        """Whether it is what the variant promises, whatever it took in time."""
        kinds = len(variant.accepts)
        stayed = clients - len(variant.leaving(clients))
        return (
            self.upstream_requests == self.distinct_bodies == kinds
            and self.answered >= stayed
            and set(self.statuses) == {variant.status}
        )


async def rush(stand: Stand, variant: Variant, clients: int) -> Outcome:
    """Connect them all, let all of them ask in one breath, and wait for those who stay."""
    chat = await stand.chat()
    await stand.control("DELETE", "faults")
    if variant.fault:
        # Whatever goes wrong, the chat is touched.
        fault = {"resource": "info", "times": None, "applies": True, **variant.fault}
        await stand.control("POST", "faults", fault)
    await stand.control("POST", "reset")
    crowd = [Client(HOST, stand.gateway, time.time) for _ in range(clients)]
    await asyncio.gather(*(client.open() for client in crowd))
    # The kernel connects at once; the gateway is still taking in these and letting the last crowd go.
    await asyncio.sleep(SETTLE_S)
    kinds = len(variant.accepts)
    questions = [
        asking(info_path(chat), stand.token(), variant.accepts[index % kinds]) for index in range(clients)
    ]
    leaving = variant.leaving(clients)
    for index, after_s in leaving.items():
        asyncio.get_running_loop().call_later(after_s, crowd[index].close)
    asked = [client.ask(question) for client, question in zip(crowd, questions, strict=True)]
    said = await asyncio.gather(*asked, return_exceptions=True)
    answers = [response for response in said if isinstance(response, Response)]
    assert all(isinstance(one, Response | Broken) for one in said)
    for client in crowd:
        client.close()
    touched = (await stand.control("GET", f"chats/{chat}"))["last_update"]
    return Outcome(
        await stand.upstream_requests(),
        len(answers),
        Counter(answer.status for answer in answers),
        len({answer.body for answer in answers}),
        round((max(answer.received for answer in answers) - touched - variant.upstream_s) * 1000, 1),
    )


async def main() -> bool:
    async with two_processes() as stand:
        outcomes = {name: await rush(stand, variant, CLIENTS) for name, variant in VARIANTS.items()}
    worst = max(outcome.after_upstream_ms for outcome in outcomes.values())
    ok = worst <= LIMIT_MS and all(
        outcome.is_as(VARIANTS[name], CLIENTS) for name, outcome in outcomes.items()
    )
    shown = {
        name: {
            "upstream_requests": outcome.upstream_requests,
            "answered": outcome.answered,
            "statuses": outcome.statuses,
            "distinct_bodies": outcome.distinct_bodies,
            "after_upstream_ms": outcome.after_upstream_ms,
        }
        for name, outcome in outcomes.items()
    }
    print(json.dumps({"show": "cold", "clients": CLIENTS, "ok": ok, "worst_ms": worst, "variants": shown}))
    return ok


if __name__ == "__main__":
    sys.exit(not uvloop.run(main()))
