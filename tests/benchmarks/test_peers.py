"""The peers' files come out whole, the upstream does as it is told, and processes end with their block."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from gateway.demo.children import free_ports
from gateway.demo.wire import Client, request
from gateway.emulator import Emulator, EmulatorConfig, serve
from gateway.identity.development import new_key
from tests.benchmarks import machine, peer, processes, upstream
from tests.benchmarks.peer import PEERS, Peer, Site
from tests.benchmarks.processes import DidNotStart

ASKED = b"/api/account/123/chat/H1-1/info?v=1"


@pytest.fixture(scope="module")
def private_key() -> bytes:
    return new_key("RS256")[0]


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "which", lambda program: f"/somewhere/{program}")
    monkeypatch.setattr(peer, "_load_njs", lambda: "load_module /somewhere/njs.so;")


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize("one", PEERS, ids=lambda one: one.slug)
def test_nothing_is_left_to_fill_in(one: Peer, tmp_path: Path, private_key: bytes) -> None:
    site = Site(tmp_path, 4001, 4002, "a-key", private_key, b'{"info": 1}')
    command = peer.prepare(one, site)
    assert command[0] == f"/somewhere/{one.program}"
    written = {name: (tmp_path / name).read_text() for name in one.templates}
    for text in (*written.values(), *command):
        assert not peer._LEFT.search(text)
    assert any("4001" in text for text in (*written.values(), *command))
    assert one.caches == any("4002" in text for text in written.values())
    assert ("auth_request" in written.get("nginx.conf", "")) == ("RS256" in one.name)


def test_what_is_put_in_may_have_names_of_its_own() -> None:
    assert peer.filled("a @B@ d", {"B": "b @C@", "C": "c"}) == "a b c d"


def test_a_program_that_is_not_installed_is_named(tmp_path: Path, private_key: bytes) -> None:
    missing = Peer("nothing", "no-such-program", (), "no-such-program")
    with pytest.raises(DidNotStart, match="no-such-program is not installed"):
        peer.prepare(missing, Site(tmp_path, 1, 2, "a-key", private_key))


@pytest.mark.parametrize(
    ("ending", "line", "also"),
    [
        ("200", b"HTTP/1.1 200 OK", b'"state":"chatting"'),
        ("no-store", b"HTTP/1.1 200 OK", b"cache-control: no-store"),
        ("404", b"HTTP/1.1 404 Not Found", b'"internalCode": 12'),
        ("500", b"HTTP/1.1 500 Internal Server Error", b'"error"'),
        ("429", b"HTTP/1.1 429 Too Many Requests", b"retry-after: 1"),
    ],
)
def test_the_upstream_ends_as_it_is_told(ending: str, line: bytes, also: bytes) -> None:
    service = upstream.Service()
    service.control(f"/_bench/set?ending={ending}")
    said = service.respond(b"GET", ASKED)
    assert said is not None
    assert said.startswith(line)
    assert also in said


def test_the_upstream_hangs_counts_and_starts_anew() -> None:
    service = upstream.Service()
    service.control("/_bench/set?ending=hang&latency_ms=50")
    assert service.respond(b"GET", ASKED) is None
    assert service.latency_s == 0.05
    assert service.count(0.0, float("inf")) == 1
    service.control("/_bench/set?state=ended")
    assert (service.count(0.0, float("inf")), service.latency_s) == (0, 0.0)
    assert b'"state":"ended"' in (service.respond(b"GET", ASKED) or b"")


def test_its_info_is_of_the_emulators_shape() -> None:
    async def emulated() -> dict[str, object]:
        emulator = Emulator(EmulatorConfig(), now=lambda: 1e9)
        server = await serve(emulator)
        chat = emulator.start_chat("123")
        emulator.accept(chat)
        client = Client("127.0.0.1", server.port)
        fields = {
            "Authorization": f"LivePerson appKey={EmulatorConfig().app_key}",
            "Accept": "application/json",
        }
        said = await client.ask(request("GET", "127.0.0.1", f"/api/account/123/chat/{chat}/info?v=1", fields))
        client.close()
        await server.close()
        info: dict[str, object] = json.loads(said.body)["info"]
        return info

    ours = json.loads(upstream.info(b"123", b"H1-1", b"chatting", 1e9))["info"]
    theirs = asyncio.run(emulated())
    assert list(ours) == list(theirs)
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


def test_a_server_ends_with_its_block_and_tells_its_cost(tmp_path: Path) -> None:
    [port] = free_ports(1)
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "tests.benchmarks.upstream", str(port)]
    with processes.running("upstream", command, tmp_path, port=port, core=core) as server:
        upstream.Upstream(port).tell(latency_ms=0)
        assert upstream.Upstream(port).count() == 0
        assert server.cpu_s() >= 0
        assert server.rss_bytes() > 2**20
        with processes.in_turn(server, [server]):
            assert processes.is_listening(port)
    assert not processes.is_listening(port)


def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such luck')"]
    with (
        pytest.raises(DidNotStart, match=r"(?s)short-lived did not start: .*no such luck"),
        processes.running("short-lived", command, tmp_path, port=1, core=min(os.sched_getaffinity(0))),
    ):
        pytest.fail("it runs")


def test_the_processor_is_named() -> None:
    assert machine.processor("processor\t: 0\nmodel name\t: A Chip 9\n") == "A Chip 9"
