"""Any schedule of changes, writes, failures, joins, leaves and reloads keeps the promises of streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Reason
from gateway.core.freshness import Failed
from gateway.core.messages import UpstreamRequest
from tests.push.following import Following, Reader
from tests.virtual import simulate

ACTS = ("join", "join", "join of events", "leave", "write", "line", "fail", "recover", "reload")
QUIET_S = 8.0


@dataclass
class Run:
    """One schedule, and what it saw."""

    sim: Following
    chat: str
    readers: list[Reader] = field(default_factory=list)
    of_events: list[Reader] = field(default_factory=list)
    #: When each write had ended; the n-th gave the name `n`.
    written: list[float] = field(default_factory=list)
    #: When reloads happened.
    reloads: list[float] = field(default_factory=list)
    lines: int = 0

    async def act(self, act: str) -> None:
        sim = self.sim
        match act:
            case "join" | "join of events":
                reply, reader = await sim.open(self.chat, "/info" if act == "join" else "/events")
                if reply.stream is not None:
                    (self.readers if act == "join" else self.of_events).append(reader)
            case "leave":
                for reader in [*self.readers, *self.of_events][:1]:
                    if reader.is_open:
                        reader.leave()
            case "write":
                reply = await sim.rename(self.chat, str(len(self.written)))
                if reply.status < 300:
                    self.written.append(sim.clock.now())
            case "line":
                sim.emulator.agent_line(self.chat, f"line {self.lines}")
                self.lines += 1
            case "fail":
                sim.upstream.interfere = _broken
            case "recover":
                sim.upstream.interfere = None
            case "reload":
                sim.adopt(sim.state.policies.clients)
                self.reloads.append(sim.clock.now())


async def _broken(request: UpstreamRequest) -> Failed | None:
    return Failed(Reason.UPSTREAM_ERROR) if request.method == "GET" else None


async def _run(schedule: list[tuple[str, float]]) -> None:
    sim = Following()
    run = Run(sim, sim.chat())
    for act, pause_s in schedule:
        await run.act(act)
        await asyncio.sleep(pause_s)
    sim.upstream.interfere = None
    await asyncio.sleep(QUIET_S)
    for reader in run.readers:
        _check_documents(run, reader)
    for reader in run.of_events:
        _check_events(run, reader)
    reads = [sent for sent in sim.upstream.sent if sent.request.method == "GET"]
    joins = len(run.readers) + len(run.of_events)
    # Of infos and events, each.
    assert len(reads) <= 2 * (sim.clock.now() / 0.8 + len(run.written) + 2) + joins
    for reader in [*run.readers, *run.of_events]:
        if reader.is_open:
            reader.leave()
    await sim.ended()


def _check_documents(run: Run, reader: Reader) -> None:
    told = reader.told("info")
    names = [int(name) if name.isdecimal() else -1 for name in reader.names]
    assert names == sorted(names), "older after newer"
    for message, name in zip(told, names, strict=True):
        before = sum(ended < message.at for ended in run.written)
        assert name >= before - 1, "of before a write that had ended"
    for earlier, later in zip(reader.messages, reader.messages[1:], strict=False):
        assert (earlier.event, earlier.id) != (later.event, later.id), "the same again"
    _check_end(run, reader)
    if reader.is_open:
        assert names[-1] == len(run.written) - 1, "not the last"
        assert reader.messages[-1].event == "info"


def _check_events(run: Run, reader: Reader) -> None:
    numbers = [number for number, _ in reader.lines]
    assert numbers == list(range(len(numbers))), "lost or doubled"
    _check_end(run, reader)
    if reader.is_open:
        assert sum(str(text).startswith("line ") for _, text in reader.lines) == run.lines


def _check_end(run: Run, reader: Reader) -> None:
    if not reader.messages:
        return
    began = reader.messages[0].at
    for reload in run.reloads:
        if reload > began:
            assert reader.messages[-1].at <= reload + 0.5, "it outlived its grant"
            assert not reader.is_open


PAUSES = st.sampled_from([0.0, 0.05, 0.13, 0.31, 0.7, 1.1, 3.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTS), PAUSES), max_size=25))
def test_any_schedule(schedule: list[tuple[str, float]]) -> None:
    simulate(_run([("join", 0.3), *schedule]))
