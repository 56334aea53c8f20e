"""(i) What it costs to be looked at: the live page open, metrics scraped, and one hit in a hundred logged."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping, Sequence

from tests.benchmarks.figures import Goal, Result
from tests.benchmarks.ground import Ground, Scale
from tests.benchmarks.processes import HOST, Server, in_turn
from tests.benchmarks.workloads.hits import (
    UPSTREAM_MS,
    Measured,
    against,
    all_answered,
    failures,
    row,
    saturate,
)

ALONE, WATCHED, LOGGED = "gateway", "gateway, watched", "gateway, watched, every hit logged"
SCRAPE_S = 5.0
#: Nobody would look who paid more for it.
BOUND = 0.95


def run(ground: Ground, scale: Scale) -> Result:
    """Interleaved rounds. Who looks has the load's core."""
    ground.upstream.tell(latency_ms=UPSTREAM_MS)
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {
            ALONE: stack.enter_context(ground.gateway(ALONE)),
            WATCHED: stack.enter_context(ground.gateway(WATCHED, log_level="info", log_one_hit_in=100)),
            LOGGED: stack.enter_context(ground.gateway(LOGGED, log_level="info")),
        }
        measured: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(scale.rounds):
            for name, server in servers.items():
                with in_turn(server, list(servers.values())), contextlib.ExitStack() as looking:
                    if name != ALONE:
                        looking.enter_context(watching(ground.private_port(name), ground.stage.admin_token))
                    measured[name].append(saturate(server, scale, token=ground.token()))
    return result(measured)


@contextlib.contextmanager
def watching(port: int, token: str) -> Iterator[None]:
    """Somebody has the page open, and Prometheus comes by, while the block runs."""
    over = threading.Event()
    fields = {"Authorization": f"Bearer {token}"}

    def read() -> None:
        with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
            connection.request("GET", "/live", headers=fields)
            response = connection.getresponse()
            while not over.is_set():
                response.read1()

    def scrape() -> None:
        while not over.is_set():
            with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=5)) as connection:
                connection.request("GET", "/metrics", headers=fields)
                connection.getresponse().read()
            over.wait(SCRAPE_S)

    threads = [threading.Thread(target=work) for work in (read, scrape)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def result(measured: Mapping[str, Sequence[Measured]]) -> Result:
    """The table, and what it has to show."""
    alone = measured[ALONE]
    rows = {name: {**row(own), "÷ alone": against(own, alone)} for name, own in measured.items()}
    goals = [
        all_answered(measured[WATCHED]),
        Goal("watched ÷ alone", "≥", BOUND, against(measured[WATCHED], alone)),
    ]
    return Result("(i) Looked at: hits on one core", rows, goals, failures(measured))
